"""Chained options: checked at the call, kept by the task, never by its class."""

from collections.abc import Callable
from datetime import timedelta
from itertools import permutations
from typing import Any
from uuid import uuid4

import pytest

from asynctasq.errors import DispatchError, InvalidQueueName
from asynctasq.kernel.retry import Exponential, Fixed
from asynctasq.tasks import AsyncTask, BaseTask, task
from asynctasq.tasks.definition import options_of
from asynctasq.testing import FakeQueue

NAN, INFINITE = float("nan"), float("inf")
TASK_ID = "0190c0de-0000-4000-8000-000000000001"


class Mail(AsyncTask[None]):
    async def execute(self) -> None: ...


@task
async def mail() -> None: ...


class Careful(AsyncTask[None]):
    retry_strategy = "exponential"
    retry_delay = 10
    retry_delay_max = 100

    async def execute(self) -> None: ...


LINKS: list[Callable[[BaseTask[Any]], BaseTask[Any]]] = [
    lambda task: task.on_queue("bulk"),
    lambda task: task.delay(5),
    lambda task: task.retry_after(7),
    lambda task: task.with_options(
        max_attempts=9, timeout=11, expires=17, max_crashes=2, keep_result=13, task_id=TASK_ID
    ),
]


@pytest.mark.parametrize("order", list(permutations(range(len(LINKS)))))
def test_links_of_a_chain_have_the_same_effect_in_any_order(order: tuple[int, ...]) -> None:
    chained: BaseTask[Any] = Mail()

    for link in order:
        chained = LINKS[link](chained)

    options = options_of(chained)
    assert (options.queue, options.delay_s, options.retry) == ("bulk", 5.0, Fixed(delay_s=7.0))
    assert (options.max_attempts, options.timeout_s, options.max_crashes) == (9, 11.0, 2)
    assert (options.keep_result_s, options.task_id, options.expires_s) == (13.0, TASK_ID, 17.0)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("build", [Mail, mail])
def test_a_link_returns_the_task_itself(build: Callable[[], BaseTask[Any]], link: Callable[[Any], Any]) -> None:
    built = build()

    assert link(built) is built


@pytest.mark.parametrize("build", [Mail, mail])
def test_a_chain_never_changes_the_class(build: Callable[[], BaseTask[Any]]) -> None:
    before = options_of(build())

    chained = build()
    for link in LINKS:
        link(chained)

    assert options_of(build()) == before
    assert (Mail.queue, Mail.max_attempts, Mail.retry_delay, Mail.timeout) == ("default", 3, 60, None)


@pytest.mark.parametrize(
    ("given", "delay_s"),
    [(1, 1.0), (0.5, 0.5), (timedelta(minutes=1), 60.0), (1e-6, 1e-6), (0, 0.0), (timedelta(0), 0.0)],
)
def test_delay_takes_seconds_or_a_timedelta(given: Any, delay_s: float) -> None:
    assert options_of(Mail().delay(given)).delay_s == delay_s


@pytest.mark.parametrize("given", [-1, -1e-9, NAN, INFINITE, 1e300, True, "5", None, timedelta(-1)])
def test_a_delay_below_zero_is_refused_at_the_call(given: Any) -> None:
    with pytest.raises(ValueError, match="delay must be"):
        Mail().delay(given)


@pytest.mark.parametrize(("given", "delay_s"), [(0, 0.0), (5, 5.0), (timedelta(seconds=2), 2.0), (0.25, 0.25)])
def test_retry_after_takes_zero_or_more(given: Any, delay_s: float) -> None:
    assert options_of(Mail().retry_after(given)).retry == Fixed(delay_s=delay_s)


@pytest.mark.parametrize("given", [-1, NAN, INFINITE, 1e300, False, "5", None, [1, 2], timedelta(-1)])
def test_a_wrong_retry_after_is_refused_at_the_call(given: Any) -> None:
    with pytest.raises(ValueError, match="retry_after must be"):
        Mail().retry_after(given)


def test_retry_after_is_where_an_exponential_strategy_starts() -> None:
    assert options_of(Careful().retry_after(3)).retry == Exponential(base_s=3.0, cap_s=100.0)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_attempts", -1),
        ("max_attempts", True),
        ("max_attempts", 1.0),
        ("timeout", 0),
        ("timeout", -3),
        ("expires", 0),
        ("expires", -3),
        ("expires", "soon"),
        ("timeout", NAN),
        ("timeout", True),
        ("max_crashes", 0),
        ("keep_result", -1),
        ("keep_result", "long"),
        ("task_id", "not a uuid"),
    ],
)
def test_a_wrong_option_is_refused_at_the_call(option: str, value: Any) -> None:
    with pytest.raises(ValueError):
        Mail().with_options(**{option: value})


def test_zero_attempts_may_be_asked_for() -> None:
    assert options_of(Mail().with_options(max_attempts=0)).max_attempts == 0


def test_options_that_are_not_given_stay_as_they_are() -> None:
    chained = Mail().with_options(timeout=5).with_options(max_attempts=2).with_options()

    assert (options_of(chained).timeout_s, options_of(chained).max_attempts) == (5.0, 2)


def test_keeping_a_result_can_be_switched_off_for_one_dispatch() -> None:
    class Kept(AsyncTask[int]):
        keep_result = True

        async def execute(self) -> int:
            return 1

    assert options_of(Kept().with_options(keep_result=False)).keep_result_s is None


@pytest.mark.parametrize("name", ["", "a b", "it's", 'quo"te', "x" * 81, None, 5, "-first"])
def test_a_bad_queue_name_is_refused_at_the_call(name: Any) -> None:
    with pytest.raises(InvalidQueueName, match="queue name"):
        Mail().on_queue(name)


def test_a_uuid_is_taken_as_task_id() -> None:
    wanted = uuid4()

    assert options_of(Mail().with_options(task_id=wanted)).task_id == str(wanted)


def test_chained_options_persist_for_the_next_dispatch() -> None:
    with FakeQueue() as queue:
        chained = Mail().on_queue("bulk").delay(5)
        first, second = chained.dispatch_sync(), chained.dispatch_sync()

    assert first != second
    assert [(sent.message.queue, sent.message.delay_s) for sent in queue.dispatched()] == [("bulk", 5.0)] * 2


class Forgot(AsyncTask[None]):
    def __init__(self) -> None:
        self.ready = True

    async def execute(self) -> None: ...


@pytest.mark.parametrize("link", LINKS)
def test_a_forgotten_super_call_is_named_when_chaining(link: Callable[[Any], Any]) -> None:
    with pytest.raises(DispatchError, match=r"Forgot.__init__ did not call super\(\).__init__\(\*\*kwargs\)"):
        link(Forgot())


def test_a_forgotten_super_call_is_named_when_dispatching() -> None:
    with FakeQueue() as queue, pytest.raises(DispatchError, match=r"Forgot.__init__ did not call super"):
        Forgot().dispatch_sync()
    queue.assert_nothing_dispatched()
