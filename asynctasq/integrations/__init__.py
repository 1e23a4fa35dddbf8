"""Floor 4: one module per framework, with what users import from it; imports no framework until that is asked for."""
