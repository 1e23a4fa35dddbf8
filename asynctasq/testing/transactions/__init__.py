"""What a FakeQueue keeps back until a transaction of the application ends; use from outside only the names below."""

from asynctasq.testing.transactions.changes import Change, SavepointStack
from asynctasq.testing.transactions.registry import Transactions

__all__ = ["Change", "SavepointStack", "Transactions"]
