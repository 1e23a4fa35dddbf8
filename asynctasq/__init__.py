"""asynctasq: a task queue that people can test."""
