"""A script beside the tasks, which no message may make a worker run: it ends the process that imports it."""

import os


class Gone:
    """Is no task."""


os._exit(7)
