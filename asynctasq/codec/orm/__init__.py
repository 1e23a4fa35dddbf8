"""ORM models as references: the codec and the worker use `references`; the adapters are its own."""
