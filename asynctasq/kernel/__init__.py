"""Floor 0: pure values and decisions; other floors import from its modules, which do no I/O and read no clock."""
