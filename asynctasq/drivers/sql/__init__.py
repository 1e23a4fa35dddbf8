"""What the drivers for SQL servers and files share; only the backends beside this folder import its modules."""
