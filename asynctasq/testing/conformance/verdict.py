"""How one conformance test is run and judged: its loop, its limits, and what a claim demands of it."""

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
from asynctasq.testing.conformance.trial import Trial, UnderClaimed
from asynctasq.testing.patience import patient_s

__all__ = ["Verdict", "conforms", "judge"]

BODY_S_MAX = patient_s(120)
GRADUAL = frozenset({"ordered", "atomic_enqueue", "idempotent_enqueue", "atomic_settle", "fenced", "exact_depth"})
"""Claims that a driver may keep in part: a test that fails under a partial claim is reported with its reason."""
TestBody = Callable[[Trial], Coroutine[Any, Any, None] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a test that did not fail found: `passed`, `unsupported` or `under-claimed`, and why."""

    status: str
    reason: str = ""


def conforms(clause: str, *, needs: str = "") -> Callable[[TestBody], Callable[..., None]]:
    """Make a function of a `Trial` a test. `clause` is the sentence of the contract it checks, `needs` a claim.

    The result is an ordinary function: no plugin for coroutines is needed, and none takes it over.
    """

    def decorate(body: TestBody) -> Callable[..., None]:
        @functools.wraps(body)
        def test(conformance_harness: DriverHarness, request: pytest.FixtureRequest) -> None:
            notes: dict[str, str] = {}
            verdict = judge(body, conformance_harness, needs=needs, notes=notes)
            notes |= {"status": verdict.status, "reason": verdict.reason}
            request.node.user_properties.extend((f"conformance_{name}", value) for name, value in notes.items())
            if verdict.status == "unsupported":
                pytest.skip(f"unsupported: {verdict.reason}")

        # pytest asks the signature which fixtures to pass; the rest is for the report and the suite's own tests.
        vars(test).update(
            __signature__=inspect.signature(test, follow_wrapped=False),
            conformance_clause=clause,
            conformance_body=body,
            conformance_needs=needs,
        )
        return pytest.mark.conformance(test)

    return decorate


def judge(body: TestBody, harness: DriverHarness, *, needs: str = "", notes: dict[str, str] | None = None) -> Verdict:
    """Run one test against the harness and say what it means under the driver's claims.

    Raises: what the test raised, where the driver's claims demand that it passes.
    """
    # With a factory the runner leaves the thread's current loop alone, which other pytest plugins may have set.
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        trial = Trial(harness, runner.run, {} if notes is None else notes)
        runner.run(_prepare(trial))
        try:
            verdict = _judge_claim(body, trial, needs)
        except BaseException as error:
            try:
                runner.run(_finish(trial))
            except Exception as later:  # noqa: BLE001 - whatever it was, the test's own error matters more
                error.add_note(f"and the store could not be closed: {later!r}")
            raise
        runner.run(_finish(trial))
        return verdict


def _judge_claim(body: TestBody, trial: Trial, needs: str) -> Verdict:
    claim = trial.capabilities.claims()[needs] if needs else Support("yes")
    if claim.level == "no" and (claim.reason or needs not in GRADUAL):
        return Verdict(status="unsupported", reason=claim.reason or f"{needs} is not claimed")
    try:
        _run_body(body, trial)
    except NotPossible as error:
        return Verdict(status="unsupported", reason=str(error))
    except UnderClaimed as error:
        return Verdict(status="under-claimed", reason=str(error))
    except (AssertionError, UnsupportedFeature) as error:
        if needs in GRADUAL and claim.level != "yes":
            return Verdict(status="unsupported", reason=f"{needs}: {claim}: {str(error).splitlines()[0]}")
        raise
    if claim.level == "no":
        return Verdict(status="under-claimed", reason=f"this works, but {needs} is not claimed")
    return Verdict(status="passed")


def _run_body(body: TestBody, trial: Trial) -> None:
    if inspect.iscoroutinefunction(body):
        trial.run(_bounded(body(trial)))
    else:
        body(trial)


async def _bounded(body: Coroutine[Any, Any, None]) -> None:
    timer = asyncio.timeout(BODY_S_MAX)
    try:
        async with timer:
            await body
    except TimeoutError as error:
        if timer.expired():
            raise AssertionError(f"the test did not end within {BODY_S_MAX:g} s: a call hangs") from error
        raise


async def _prepare(trial: Trial) -> None:
    prepare = getattr(trial.harness, "prepare", None)
    if prepare is not None:
        await prepare()
    await trial.driver.open()


async def _finish(trial: Trial) -> None:
    try:
        async with asyncio.timeout(patient_s(30)):
            for driver in trial.drivers:
                await driver.close()
    finally:
        with suppress(NotPossible):
            await trial.harness.clean_up()
