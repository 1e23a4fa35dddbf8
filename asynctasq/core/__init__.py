"""Floor 3: the worker and its parts; users import `Worker` from `worker`, other floors the module they need."""
