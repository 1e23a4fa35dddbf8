"""Exists because the guide imports `asynctasq.utils.loop`."""
