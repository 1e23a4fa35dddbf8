"""ORM models as references; import only `references` from outside: the other modules are its adapters."""
