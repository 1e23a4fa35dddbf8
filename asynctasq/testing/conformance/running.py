"""Runs one conformance test in a loop of its own, with a time limit, and tells its result under the driver's claims."""

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from asynctasq.drivers.capabilities import Support
from asynctasq.errors import UnsupportedFeature
from asynctasq.testing.conformance.harness import DriverHarness, NotPossible
from asynctasq.testing.conformance.store_under_test import StoreUnderTest, UnderClaimed
from asynctasq.testing.patience import patient_s

__all__ = ["ConformanceResult", "conforms", "run_conformance_test"]

BODY_S_MAX = patient_s(120)
PARTIAL_ALLOWED = frozenset(
    {"ordered", "atomic_enqueue", "idempotent_enqueue", "atomic_settle", "fenced", "exact_depth"}
)
"""Claims that a driver may keep in part: a test that fails under a partial claim is reported with its reason."""
TestBody = Callable[[StoreUnderTest], Coroutine[Any, Any, None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConformanceResult:
    """The result of a test that did not fail: `passed`, `unsupported` or `under-claimed`, and why."""

    status: str
    reason: str = ""


def conforms(clause: str, *, needs: str = "") -> Callable[[TestBody], Callable[..., None]]:
    """Make a function of a store a test. `clause` is the sentence of the contract it checks, `needs` a claim.

    The result is an ordinary function: no plugin for coroutines is needed, and none takes it over.
    """

    def decorate(body: TestBody) -> Callable[..., None]:
        @functools.wraps(body)
        def test(conformance_harness: DriverHarness, request: pytest.FixtureRequest) -> None:
            notes: dict[str, str] = {}
            result = run_conformance_test(body, conformance_harness, needs=needs, notes=notes)
            notes |= {"status": result.status, "reason": result.reason}
            request.node.user_properties.extend((f"conformance_{name}", value) for name, value in notes.items())
            if result.status == "unsupported":
                pytest.skip(f"unsupported: {result.reason}")

        # pytest asks the signature which fixtures to pass; the rest is for the report and the suite's own tests.
        vars(test).update(
            __signature__=inspect.signature(test, follow_wrapped=False),
            conformance_clause=clause,
            conformance_body=body,
            conformance_needs=needs,
        )
        return pytest.mark.conformance(test)

    return decorate


def run_conformance_test(
    body: TestBody, harness: DriverHarness, *, needs: str = "", notes: dict[str, str] | None = None
) -> ConformanceResult:
    """Run one test against the harness and return its result under the driver's claims.

    Raises: what the test raised, where the driver's claims demand that it passes.
    """
    # With a factory the runner leaves the thread's current loop alone, which other pytest plugins may have set.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        store = StoreUnderTest(harness, runner.run, {} if notes is None else notes)
        runner.run(_prepare(store))
        try:
            result = _run_under_claim(body, store, needs)
        except BaseException as error:
            try:
                runner.run(_finish(store))
            except Exception as later:  # noqa: BLE001 - whatever it was, the test's own error matters more
                error.add_note(f"and the store could not be closed: {later!r}")
            raise
        runner.run(_finish(store))
        return result


def _run_under_claim(body: TestBody, store: StoreUnderTest, needs: str) -> ConformanceResult:
    claim = store.capabilities.claims()[needs] if needs else Support("yes")
    if claim.level == "no" and (claim.reason or needs not in PARTIAL_ALLOWED):
        return ConformanceResult(status="unsupported", reason=claim.reason or f"{needs} is not claimed")
    try:
        _run_body(body, store)
    except NotPossible as error:
        return ConformanceResult(status="unsupported", reason=str(error))
    except UnderClaimed as error:
        return ConformanceResult(status="under-claimed", reason=str(error))
    except (AssertionError, UnsupportedFeature) as error:
        if needs in PARTIAL_ALLOWED and claim.level != "yes":
            return ConformanceResult(status="unsupported", reason=f"{needs}: {claim}: {str(error).splitlines()[0]}")
        raise
    if claim.level == "no":
        return ConformanceResult(status="under-claimed", reason=f"this works, but {needs} is not claimed")
    return ConformanceResult(status="passed")


def _run_body(body: TestBody, store: StoreUnderTest) -> None:
    if inspect.iscoroutinefunction(body):
        store.run(_bounded(body(store)))
    else:
        body(store)


async def _bounded(body: Coroutine[Any, Any, None]) -> None:
    timer = asyncio.timeout(BODY_S_MAX)
    try:
        async with timer:
            await body
    except TimeoutError as error:
        if timer.expired():
            raise AssertionError(f"the test did not end within {BODY_S_MAX:g} s: a call hangs") from error
        raise


async def _prepare(store: StoreUnderTest) -> None:
    prepare = getattr(store.harness, "prepare", None)
    if prepare is not None:
        await prepare()
    await store.driver.open()


async def _finish(store: StoreUnderTest) -> None:
    try:
        async with asyncio.timeout(patient_s(30)):
            for driver in store.drivers:
                await driver.close()
    finally:
        with suppress(NotPossible):
            await store.harness.clean_up()
