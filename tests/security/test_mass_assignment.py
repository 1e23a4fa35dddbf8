"""What a caller or a forged message names in its arguments never replaces what the task's class has."""

import types
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.codec.arguments import pack_arguments
from asynctasq.codec.envelope import encode_envelope
from asynctasq.core.task_factory import BadArguments, TaskFactory
from asynctasq.errors import TaskDefinitionError
from asynctasq.kernel.envelope import Envelope
from asynctasq.kernel.retry import Fixed
from asynctasq.tasks import AsyncTask, SyncTask, task
from asynctasq.tasks.application import Application
from asynctasq.tasks.definition import options_of
from asynctasq.tasks.options import SETTINGS
from asynctasq.testing import FakeQueue

T = TypeVar("T")


class Fetch(AsyncTask[str]):
    base_url = "https://internal"

    def sign(self) -> str:
        return "signed"

    async def execute(self) -> str:
        return self.base_url + self.sign()


NAMES = sorted(name for name in dir(Fetch))


@pytest.mark.parametrize("name", ["base_url", "sign", "execute", "queue", "_options", "__class__"])
def test_a_keyword_does_not_replace_what_the_class_has(name: str) -> None:
    with pytest.raises(TypeError, match=f"argument '{name}' would hide an attribute of the task; rename it"):
        Fetch(**{name: "http://evil"})


@settings(max_examples=60)
@given(name=st.one_of(st.sampled_from(NAMES), st.text(min_size=1, max_size=5)))
def test_no_attribute_of_the_class_is_ever_replaced(name: str) -> None:
    before = {each: getattr(Fetch, each) for each in NAMES}
    try:
        built = Fetch(**{name: "evil"})
    except TypeError:
        return

    assert name not in NAMES
    assert {each: getattr(type(built), each) for each in NAMES} == before
    assert vars(built).keys().isdisjoint(NAMES) or vars(built).keys() & set(NAMES) <= {"_options", "_arguments_given"}


def forged(cls: type[Any], arguments: dict[str, object]) -> bytes:
    packed = pack_arguments("app:Task", arguments, {})
    name = f"{cls.__module__}:{cls.__qualname__}"
    return encode_envelope(
        Envelope(task=name, arguments=packed, max_attempts=3, retry=Fixed(delay_s=1), dispatched_at=1.0)
    )


class Plain(AsyncTask[None]):
    to: str
    copies: int = 1
    _cache: str = "private"
    LIMIT: ClassVar[int] = 7
    queue: str = "mail"

    async def execute(self) -> None: ...


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (Fetch, {"base_url": "http://evil"}),
        (Fetch, {"_options": 1}),
        (Plain, {}),
        (Plain, {"to": "ada", "execute": 1}),
        (Plain, {"to": "ada", "LIMIT": 1}),
        (Plain, {"to": "ada", "bcc": "eve"}),
    ],
)
async def test_a_forged_message_is_refused_before_the_constructor(cls: type[Any], arguments: dict[str, object]) -> None:
    factory = TaskFactory(Application(()))

    with pytest.raises(BadArguments):
        await factory.build(await factory.find("id", 1, factory.decode("id", forged(cls, arguments))))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, r"Plain\(to, copies\) lacks to"),
        ({"copies": 2}, "lacks to"),
        ({"to": "a", "cc": "b"}, "got unexpected arguments: cc"),
        ({"to": "a", "LIMIT": 8}, "would hide an attribute of the task"),
        ({"to": "a", "_cache": 8}, "would hide an attribute of the task"),
        ({"to": "a", "queue": "other"}, "would hide an attribute of the task"),
    ],
)
def test_fields_that_do_not_fit_fail_at_the_call(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        Plain(**arguments)


def test_fields_become_attributes_with_their_defaults() -> None:
    built = Plain(to="ada")

    assert (built.to, built.copies, options_of(built).queue) == ("ada", 1, "mail")


class Envelope1(Generic[T]):
    item: T


class Wraps(Envelope1[int], Plain):
    more: "float" = 0.5

    async def execute(self) -> None:
        assert (self.to, self.item, self.more, self.copies) == ("a", 3, 2.0, 1)


def test_fields_of_bases_and_mix_ins_are_fields_too() -> None:
    with pytest.raises(TypeError, match="lacks item, to"):
        Wraps()  # type: ignore[call-arg]
    arguments: dict[str, Any] = {"to": "a", "item": 3, "more": 2.0}
    with FakeQueue() as queue:
        Wraps(**arguments).dispatch_sync()
        queue.drain_sync()


class Constructed:
    to: str

    def __init__(self, to: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.to = to


class Mixed(Constructed, AsyncTask[None]):
    async def execute(self) -> None: ...


def test_the_constructor_of_a_mix_in_is_one() -> None:
    assert Mixed("ada").to == "ada"
    with pytest.raises(TypeError, match=r"Mixed\(to\) got unexpected arguments: cc"):
        Mixed("ada", cc="eve")


def test_a_field_that_would_hide_the_api_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TaskDefinitionError, match="hide an attribute or method of every task: dispatch; rename"):
        types.new_class("Bad", (SyncTask,), exec_body=lambda ns: ns.update({"__annotations__": {"dispatch": int}}))


def make(name: str, value: object, **more: object) -> type[Any]:
    def execute(self: Any) -> None: ...

    return type("Made", (SyncTask,), {"__module__": __name__, "execute": execute, name: value, **more})


@pytest.mark.parametrize(
    ("name", "value", "nearest"),
    [
        ("max_attempt", 3, "max_attempts"),
        ("maxattempts", 3, "max_attempts"),
        ("retries", 5, "max_attempts"),
        ("max_retries", 5, "max_attempts"),
        ("time_limit", 30, "timeout"),
        ("time_out", 30, "timeout"),
        ("timeout_s", 30, "timeout"),
        ("queue_name", "mail", "queue"),
        ("retry_delays", [1, 2], "retry_delay"),
        ("keep_results", True, "keep_result"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_nearest_name(name: str, value: object, nearest: str) -> None:
    with pytest.raises(TaskDefinitionError, match=rf"Made\.{name} is no setting; did you mean '{nearest}'\?"):
        make(name, value)
    with pytest.raises(TaskDefinitionError, match=rf"no setting {name}.*'{nearest}'"):
        task(**{name: value})  # type: ignore[call-overload]


@given(setting=st.sampled_from(SETTINGS), at=st.integers(0, 20), letter=st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
@settings(max_examples=60)
def test_one_letter_too_many_is_refused(setting: str, at: int, letter: str) -> None:
    name = setting[:at] + letter + setting[at:]

    if not name.startswith("_"):
        with pytest.raises(TaskDefinitionError, match="is no setting; did you mean"):
            make(name, 3)


@pytest.mark.parametrize("name", ["url", "prices", "currency", "template", "question", "times", "missiles"])
def test_other_attributes_are_no_settings(name: str) -> None:
    make(name, 3)


def test_an_annotated_attribute_and_a_method_are_meant() -> None:
    make("max_attempt", 3, __annotations__={"max_attempt": ClassVar[int]})
    make("retries", lambda self: 3)
