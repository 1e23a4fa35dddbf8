"""The driver contract as tests that any driver author runs."""
