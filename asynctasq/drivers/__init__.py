"""The driver contract and one package per backend; for use outside: `base`, `urls` and the class of each driver."""
