"""Limits of a task, across all workers: `limits = [ConcurrencyLimit("stripe", 5), RateLimit("api", 100, per=60)]`."""

from asynctasq.tasks.limits import ConcurrencyLimit, RateLimit

__all__ = ["ConcurrencyLimit", "RateLimit"]
