"""Holds `loop`, which users import as `asynctasq.utils.loop`; nothing else belongs here."""
