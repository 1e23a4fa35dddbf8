"""Bodies that were good once: whatever bytes are changed, cut or added, the worker goes on and says what it did."""

import logging
from collections import Counter
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.codec.envelope import PLAIN_PREFIX
from asynctasq.codec.typed_msgpack import packb
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.kernel.messages import Message
from asynctasq.queue import MessageFactory
from asynctasq.tasks import AsyncProcessTask, AsyncTask, BaseTask, SyncProcessTask, SyncTask
from asynctasq.tasks.application import Application
from asynctasq.testing import VirtualClock
from asynctasq.testing.loop import SimulationLoop
from tests.effort import examples

RAN: Counter[str] = Counter()
HORIZON_S = 200


class Fine(AsyncTask[None]):
    async def execute(self) -> None:
        RAN["fine"] += 1


class InLoop(AsyncTask[None]):
    def __init__(self, number: int, text: str, deep: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    async def execute(self) -> None: ...


class InThread(SyncTask[None]):
    def __init__(self, number: int, text: str, deep: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def execute(self) -> None: ...


class InAsyncProcess(AsyncProcessTask[None]):
    def __init__(self, number: int, text: str, deep: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    async def execute(self) -> None: ...


class InProcess(SyncProcessTask[None]):
    def __init__(self, number: int, text: str, deep: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def execute(self) -> None: ...


def good_bodies() -> list[bytes]:
    arguments: tuple[Any, ...] = (5, "text", {"a": [1, (2, 3)], "b": {4.5, None}})
    kinds: list[Any] = [InLoop, InThread, InAsyncProcess, InProcess]
    tasks: list[BaseTask[Any]] = [kind(*arguments) for kind in kinds]
    tasks.append(InLoop(*arguments).retry_after(3).with_options(max_attempts=2, timeout=4, keep_result=True))
    return [MessageFactory(clock=VirtualClock()).message(task).body for task in tasks]


GOOD = good_bodies()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    body = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        match draw(st.integers(0, 2)):
            case 0:
                body[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del body[at : at + draw(st.integers(1, 9))]
            case _:
                body[at:at] = draw(st.binary(max_size=9))
    return bytes(body)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5)
    | st.just(f"{__name__}:InLoop"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
FIELDS = st.lists(VALUES, max_size=14).map(lambda fields: [f"{__name__}:InLoop", *fields])
WELL_FORMED = FIELDS.map(lambda fields: PLAIN_PREFIX + packb(fields))


class Told(logging.Handler):
    """Collects what the worker says."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def run(bodies: list[bytes]) -> None:
    """Run these among good ones for some minutes of virtual time, and judge."""
    RAN.clear()
    clock, told = VirtualClock(), Told()
    driver = MemoryDriver(clock=clock)
    worker = Worker(
        driver,
        settings=WorkerSettings(application=Application(), handle_signals=False),
        runtime=SimulatedRuntime(clock=clock, rng=Random(1), name="w"),
    )
    factory = MessageFactory(clock=clock)
    bad = [Message(id=f"bad-{number}", queue="default", body=body) for number, body in enumerate(bodies)]

    async def program() -> None:
        await driver.enqueue([factory.message(Fine()), *bad, factory.message(Fine())])
        loop.call_later(HORIZON_S, worker.stop)
        await worker.start()

    logger = logging.getLogger("asynctasq")
    logger.addHandler(told)
    loop = SimulationLoop(clock=clock)
    try:
        loop.run(program())
    finally:
        logger.removeHandler(told)

    assert RAN["fine"] == 2
    assert [text for text in told.texts if "bug of asynctasq" in text] == []


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(damaged(), min_size=1, max_size=4))
def test_a_damaged_body_never_breaks_the_worker(bodies: list[bytes]) -> None:
    run(bodies)


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(WELL_FORMED, min_size=1, max_size=4))
def test_an_envelope_of_other_fields_never_breaks_the_worker(bodies: list[bytes]) -> None:
    run(bodies)
