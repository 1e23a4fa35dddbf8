"""Signing never fails open: what has no value is an error, and what was signed for one place is good nowhere else."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asynctasq
from asynctasq.codec.envelope import MAGIC, WIRE_VERSION, decode_envelope
from asynctasq.codec.signing import SigningKeys, open_result, sign_result
from asynctasq.config import load_settings
from asynctasq.core.runtime import SimulatedRuntime, WorkerSettings
from asynctasq.core.worker import Worker
from asynctasq.drivers.memory_driver import MemoryDriver
from asynctasq.errors import BadSignature, ConfigError
from asynctasq.kernel.messages import DeadReason, Message, State
from asynctasq.queue import MessageFactory, Queue
from asynctasq.tasks import AsyncTask, SyncProcessTask
from asynctasq.tasks.application import Application
from asynctasq.testing import VirtualClock

SECRETS = {"2026": b"k" * 32, "2025": b"o" * 32}
KEYS = SigningKeys(SECRETS)
RAN: list[str] = []


class Note(AsyncTask[str]):
    keep_result = True
    text: str

    async def execute(self) -> str:
        RAN.append(self.text)
        return self.text


class Child(SyncProcessTask[str]):
    keep_result = True
    text: str

    def execute(self) -> str:
        RAN.append(self.text)
        return self.text


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


# --- settings that are empty ----------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", " ", "{}", "null", "[]", '""', "0", "false"])
@pytest.mark.parametrize("source", ["environment", "dotenv", "lower case"])
def test_an_empty_value_outside_of_python_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, value: str
) -> None:
    if source == "dotenv":
        (tmp_path / ".env").write_text(f"ASYNCTASQ_SIGNING_KEYS='{value}'\n")
    else:
        name = "ASYNCTASQ_SIGNING_KEYS"
        monkeypatch.setenv(name if source == "environment" else name.lower(), value)

    with pytest.raises(ConfigError, match=r"(?i)signing_keys"):
        load_settings(root=tmp_path)


@pytest.mark.parametrize("value", [{}, None, "", "{}", []])
def test_an_empty_value_in_python_is_an_error(value: object) -> None:
    with pytest.raises(ConfigError, match="signing_keys"):
        asynctasq.init(driver="memory", signing_keys=value)


def test_an_empty_table_in_pyproject_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.asynctasq]\nsigning_keys = {}\n")

    with pytest.raises(ConfigError, match="signing_keys"):
        load_settings(root=tmp_path)


@pytest.mark.parametrize(
    ("keys", "told"), [(None, "off"), (SECRETS, "on, accepts 2025, 2026, signs with 2026")], ids=["off", "on"]
)
def test_the_banner_says_whether_bodies_are_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: dict[str, bytes] | None, told: str
) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    if keys is not None:
        monkeypatch.setenv("ASYNCTASQ_SIGNING_KEYS", json.dumps({name: key.decode() for name, key in keys.items()}))
    command = [sys.executable, "-m", "asynctasq", "worker", "--burst", "--json"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)

    assert json.loads(done.stdout.splitlines()[0])["signing"] == told, done.stderr
    assert "kkkk" not in done.stdout + done.stderr


# --- what a signature is bound to -----------------------------------------------------------------


texts = st.text(max_size=8)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
@settings(max_examples=80)
def test_a_body_is_good_for_its_own_message_and_queue_only(made: tuple[str, str], read: tuple[str, str]) -> None:
    message = MessageFactory(keys=KEYS, new_id=lambda: made[0]).message(Note(text="x"))

    def decode(message_id: str, queue: str) -> str:
        return decode_envelope(message.body, keys=KEYS, belongs_to=(message_id, queue)).task

    assert decode(made[0], "default") == f"{__name__}:Note"
    for message_id, queue in (
        (read[0], "default"),
        (made[0], read[1]),
        read,
        ("default", made[0]),
        (made[0] + "d", "efault"),
    ):
        if (message_id, queue) != (made[0], "default"):
            with pytest.raises(BadSignature, match="copied from another message or queue"):
                decode(message_id, queue)


@given(st.tuples(texts, texts), st.binary(max_size=20))
@settings(max_examples=60)
def test_a_result_is_good_for_its_own_message_only(ids: tuple[str, str], data: bytes) -> None:
    signed = sign_result(data, KEYS, ids[0])

    assert open_result(signed, KEYS, ids[0]) == data
    assert open_result(signed, None, ids[1]) == data
    if ids[0] != ids[1]:
        with pytest.raises(BadSignature):
            open_result(signed, KEYS, ids[1])
    with pytest.raises(BadSignature, match="the result is not signed"):
        open_result(b"\x80" + data, KEYS, ids[0])


def test_a_body_is_no_result() -> None:
    message = MessageFactory(keys=KEYS).message(Note(text="x"))

    with pytest.raises(BadSignature):
        open_result(message.body, KEYS, message.id)


@pytest.mark.parametrize(("later_s", "is_good"), [(159, True), (162, False)])
def test_a_signature_expires_so_long_after_the_message_is_due(later_s: float, is_good: bool) -> None:
    clock = VirtualClock()
    message = MessageFactory(clock=clock, keys=KEYS, signing_ttl_s=100).message(Note(text="x").delay(60))
    belongs_to, now = (message.id, message.queue), clock.now() + later_s

    if is_good:
        decode_envelope(message.body, keys=KEYS, belongs_to=belongs_to, now=now)
    else:
        with pytest.raises(BadSignature, match=r"expired .* s ago; dispatch the task again"):
            decode_envelope(message.body, keys=KEYS, belongs_to=belongs_to, now=now)


def worker(clock: VirtualClock, driver: MemoryDriver, *queues: str, keys: dict[str, bytes] | None = SECRETS) -> Worker:
    return Worker(
        driver,
        queues or ("default",),
        settings=WorkerSettings(application=Application(), handle_signals=False, burst=True, signing_keys=keys),
        runtime=SimulatedRuntime(clock=clock, rng=random.Random(1), name="worker"),
    )


async def reason_of(driver: MemoryDriver, message_id: str) -> DeadReason | None:
    stored = await driver.find(message_id)
    assert stored is not None
    return stored.reason


async def test_a_copied_body_becomes_a_dead_letter_and_the_original_runs_once() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    queue = Queue(driver, factory=MessageFactory(clock=clock, keys=KEYS))
    [note, child] = await queue.dispatch([Note(text="low"), Child(text="child")])
    stored = await driver.find(note)
    assert stored is not None
    copies = [
        Message(id="1", queue="default", body=stored.body),
        Message(id=note + "x", queue="admin", body=stored.body),
    ]
    await driver.enqueue(copies)

    await worker(clock, driver, "default", "admin").start()

    assert sorted(RAN) == ["child", "low"]
    for copy in copies:
        assert await reason_of(driver, copy.id) is DeadReason.BAD_SIGNATURE
    assert [await queue.result(note, task=Note), await queue.result(child, task=Child)] == ["low", "child"]
    with pytest.raises(BadSignature):
        await Queue(driver, factory=MessageFactory(keys=SigningKeys({"2026": b"x" * 32}))).result(note, task=Note)


async def test_a_dead_letter_that_is_driven_again_is_still_signed() -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    [note] = await Queue(driver, factory=MessageFactory(clock=clock, keys=KEYS)).dispatch([Note(text="again")])
    await worker(clock, driver, keys={"2026": b"x" * 32}).start()
    assert await reason_of(driver, note) is DeadReason.BAD_SIGNATURE

    await driver.redrive("default", limit=10)
    await worker(clock, driver).start()

    assert RAN == ["again"]


# --- versions that are not known ------------------------------------------------------------------


@pytest.mark.parametrize("rest", [b"\x00", b"AAAA", b"\x02" + b"x" * 80])
@pytest.mark.parametrize("version", [0, WIRE_VERSION, WIRE_VERSION + 1, 255])
def test_what_is_not_signed_is_refused_in_every_version(version: int, rest: bytes) -> None:
    with pytest.raises(BadSignature, match="the body is not signed"):
        decode_envelope(bytes((MAGIC, version)) + rest, keys=KEYS)


@pytest.mark.parametrize("keys", [None, SECRETS], ids=["no keys", "keys"])
async def test_an_unknown_version_is_not_left_for_a_newer_worker_for_ever(
    keys: dict[str, bytes] | None,
) -> None:
    clock = VirtualClock()
    driver = MemoryDriver(clock=clock)
    await driver.enqueue([Message(id="newer", queue="default", body=bytes((MAGIC, 255, 1)) + b"AAAA")])
    turns, stored = 0, None
    while turns < 2000:
        await worker(clock, driver, keys=keys).start()
        stored = await driver.find("newer")
        assert stored is not None
        if stored.state is State.DEAD:
            break
        turns += 1
        clock.advance(hours=1)

    assert stored is not None
    assert stored.reason is DeadReason.UNDECODABLE
    assert 24 * 7 - 1 <= turns <= 24 * 7 + 1
