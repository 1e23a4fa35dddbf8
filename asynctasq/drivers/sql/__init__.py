"""What the drivers for SQL servers and files share; for the drivers beside this folder, which import its modules."""
