"""Floor 3: the worker and what it is made of."""
