"""Hostile input: what may be in a message, an argument or an exception, and what it can not do."""
