"""Floor 4: what tests of asynctasq and of its users need."""
