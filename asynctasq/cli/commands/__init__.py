"""The commands and their options, some to a file; each file is read when one of its commands is asked for."""
