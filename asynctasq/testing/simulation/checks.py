"""The properties of a simulated program: always, eventually, and sometimes in at least one run."""

import asyncio
import inspect
from collections.abc import Callable

from asynctasq.kernel.ledger import Entry, Violation
from asynctasq.testing.engine import Engine
from asynctasq.testing.parameters import check_seconds

__all__ = ["Checks", "InvariantBroken", "PropertyBroken"]

Predicate = Callable[[], bool]


class PropertyBroken(AssertionError):
    """A property that should hold always, or in time, did not. `name` is its name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class InvariantBroken(PropertyBroken):
    """The ledger of a run breaks invariants of the queue."""

    def __init__(self, violations: list[Violation]) -> None:
        first = violations[0]
        lines = "".join(f"\n  {v.invariant}: message {v.message_id[:8]}: {v.text}" for v in violations)
        super().__init__(first.invariant, f"the run breaks {len(violations)} invariants of the queue:{lines}")


class Checks:
    """The properties of one run; `broken` is set as soon as one does not hold."""

    def __init__(self, engine: Engine) -> None:
        self.declared: set[str] = set()
        self.covered: set[str] = set()
        self.broken: asyncio.Future[None] = engine.loop.create_future()
        self._engine = engine
        self._always: dict[str, Predicate] = {}
        self._eventually: dict[str, Predicate] = {}

    def always(self, name: str, predicate: Predicate) -> None:
        """Check now and whenever anything happens."""
        _check_callable(f"always {name!r}", predicate)
        self._always[name] = predicate
        self._check_from_now_on()

    def eventually(self, name: str, predicate: Predicate, within_s: float) -> None:
        """Check whenever anything happens, at the latest `within_s` from now, until it holds once."""
        check_seconds(within_s, "within")
        _check_callable(f"eventually {name!r}", predicate)
        self._eventually[name] = predicate
        self._engine.loop.call_later(within_s, self._on_deadline, name, within_s)
        self._check_from_now_on()

    def sometimes(self, name: str, condition: bool | Predicate) -> None:
        """Count a situation as seen; a predicate is asked now."""
        self.declared.add(name)
        if _truth(f"sometimes {name!r}", condition() if callable(condition) else condition):
            self.covered.add(name)

    def finish(self) -> None:
        """Check a last time: the run is over.

        Raises: PromiseBroken for what never came true.
        """
        self._check(None)
        if self._check in self._engine.listeners:
            self._engine.listeners.remove(self._check)
        if self.broken.done():
            self.broken.result()
        for name in self._eventually:
            raise PropertyBroken(name, f"eventually {name!r}: the run ended and it had never been so")

    def _check_from_now_on(self) -> None:
        """Check now and after every event; most programs have no property that needs it."""
        if self._check not in self._engine.listeners:
            self._engine.listeners.append(self._check)
        self._check(None)

    def _check(self, _entry: Entry | None) -> None:
        for name, predicate in self._always.items():
            if not self._holds("always", name, predicate):
                self._fail(PropertyBroken(name, f"always {name!r}: no longer so at {self._engine.clock.elapsed}"))
        for name, predicate in list(self._eventually.items()):
            if self._holds("eventually", name, predicate):
                del self._eventually[name]

    def _holds(self, promise: str, name: str, predicate: Predicate) -> bool:
        try:
            return _truth(f"{promise} {name!r}", predicate())
        except Exception as error:  # noqa: BLE001 - user code; it fails the run, not the worker it is called in
            error.add_note(f"raised by the predicate {name!r}")
            self._fail(error)
            return True

    def _on_deadline(self, name: str, within_s: float) -> None:
        self._check(None)
        if name in self._eventually:
            self._fail(PropertyBroken(name, f"eventually {name!r}: not so within {within_s:g} virtual seconds"))

    def _fail(self, error: Exception) -> None:
        if not self.broken.done():
            self.broken.set_exception(error)
            self.broken.exception()  # seen: a run that fails otherwise need not report it as never retrieved


def _truth(promise: str, answer: object) -> bool:
    """Return what a predicate answers; a coroutine would be true whatever it is about to say.

    Raises: TypeError for what is to be awaited.
    """
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()  # or Python warns that nobody awaited it
        raise TypeError(
            f"{promise} is asked between two steps, where no `await` can be: "
            "give a plain function that looks at what your code has done"
        )
    return bool(answer)


def _check_callable(promise: str, predicate: object) -> None:
    if not callable(predicate):
        _truth(promise, predicate)
        raise TypeError(f"{promise} takes a function that says whether it holds, not {predicate!r}")
