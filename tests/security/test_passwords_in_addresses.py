"""However an address with a password is mistyped, no part of the password appears in an error, a text or a repr."""

import traceback
from collections.abc import Callable
from functools import partial
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asynctasq.config import load_settings
from asynctasq.core.setup import driver_from
from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.drivers.sqs_driver import SQSDriver
from asynctasq.drivers.urls import SCHEMES, create_driver, redact
from asynctasq.errors import ConfigError
from tests.effort import examples

LETTERS = "QXZJWKÄЖ北"
"""No text of ours has these beside each other."""
SPECIAL = "/?#@:%&=+[]!$,; \\'\"~."
COMPATIBLE = "\u2100\uff0f"
"""Python's urlsplit refuses these, showing what is around them."""
SERVERS = sorted(
    [name for name in SCHEMES if name not in ("memory", "sqlite")] + ["rediss+sentinel", "reddis", "pg", "http"]
)
FORMS = [
    "{scheme}:u:{secret}@{rest}",
    "{scheme}:/u:{secret}@{rest}",
    "{scheme}//u:{secret}@{rest}",
    "{scheme}:///u:{secret}@{rest}",
    "//u:{secret}@{rest}",
    "u:{secret}@{rest}",
    "{secret}@{rest}",
    ":{secret}@{rest}",
    "{scheme}://{secret}@{rest}",
    "{scheme}://u@{secret}@{rest}",
    "{scheme}://{secret}:@{rest}",
    "{scheme}://u:{secret}@",
    "{scheme}://u:{secret}@[::1:9",
    "{scheme}://u:{secret}@h:port/2",
    "{scheme}://u:{secret}@h:99999/2",
    "{scheme}://u:{secret}@{rest}#fragment",
    "{scheme}://u:{secret}@{rest}?no_such_option=1",
    "{scheme}://u:{secret}@{rest}\n",
    " {scheme}://u:{secret}@{rest}",
    '"{scheme}://u:{secret}@{rest}"',
    "ASYNCTASQ_DRIVER={scheme}://u:{secret}@{rest}",
    "{scheme}://{rest}?password={secret}",
    "{scheme}://{rest}?passwrd={secret}",
    "{scheme}://{rest}?{secret}",
    "{scheme}://{rest}?max_connections={secret}",
    "{scheme}://{rest}#{secret}",
]
letters = st.text(st.sampled_from(LETTERS), min_size=3, max_size=8)
secrets_without_at = st.builds(
    "".join, st.tuples(letters, st.text(st.sampled_from(SPECIAL.replace("@", "") + LETTERS)), letters)
)
secrets = st.builds(
    "".join, st.tuples(letters, st.text(st.sampled_from(SPECIAL + COMPATIBLE + LETTERS), max_size=8), letters)
)


def parts_of(secret: str) -> set[str]:
    """Return the pieces of three characters that give the secret away, as it is and percent-encoded."""
    pieces = {secret[start : start + 3] for start in range(len(secret) - 2)}
    pieces |= {quote(piece, safe="") for piece in pieces}
    return {piece for piece in pieces if set(piece) & set(LETTERS)}


def texts_of(make: Callable[[], object]) -> str:
    """Return all that is shown of an address: by the driver, or by the error and what is told of its causes."""
    try:
        driver = make()
    except ConfigError as error:
        return "".join(traceback.format_exception_only(error)) + "".join(
            str(line) for line in traceback.TracebackException.from_exception(error).format()
        )
    return f"{driver} {driver!r}"


def assert_not_told(url: str, secret: str) -> None:
    shown = [texts_of(partial(create_driver, url)), redact(url)]
    for values in ({"driver": url}, {"driver": "redis", "redis_url": url}, {"driver": "mysql", "mysql_url": url}):
        loaded = load_settings(values)
        shown.append(texts_of(partial(driver_from, loaded, loaded.driver)))
        shown.append(repr(loaded))
    for text in shown:
        told = {piece for piece in parts_of(secret) if piece in text}
        assert not told, f"{url!r} is told as {text!r}"


def rest_of(scheme: str) -> str:
    return "h:1/main/2" if "sentinel" in scheme else "h:1/2"


@settings(deadline=None)
@given(
    scheme=st.sampled_from(SERVERS), secret=secrets, encoded=st.booleans(), user=st.sampled_from(["", "u", "me@home"])
)
def test_of_an_address_with_any_password(scheme: str, secret: str, encoded: bool, user: str) -> None:
    written = quote(secret, safe="") if encoded else secret

    assert_not_told(f"{scheme}://{user}:{written}@{rest_of(scheme)}", secret)


@settings(max_examples=examples(300), deadline=None)
@given(scheme=st.sampled_from(SERVERS), form=st.sampled_from(FORMS), secret=secrets)
def test_of_a_mistyped_address(scheme: str, form: str, secret: str) -> None:
    assert_not_told(form.format(scheme=scheme, secret=secret, rest=rest_of(scheme)), secret)


@settings(deadline=None)
@given(scheme=st.sampled_from(SERVERS), data=st.data(), secret=secrets_without_at)
def test_of_an_address_with_a_character_too_few_too_many_or_wrong(
    scheme: str, data: st.DataObject, secret: str
) -> None:
    before, after = f"{scheme}://u:", f"@{rest_of(scheme)}"
    place = data.draw(st.integers(0, len(before) + len(after) - 1), "place")
    instead = data.draw(st.sampled_from(["", *"/?#:%&=[] \n\x00,u", "::", "//"]), "instead")
    if place < len(before):
        before = before[:place] + instead + before[place + 1 :]
    else:
        after = after[: place - len(before)] + instead + after[place - len(before) + 1 :]

    assert_not_told(f"{before}{secret}{after}", secret)


@settings(deadline=None)
@given(secret=secrets)
@pytest.mark.parametrize("form", ["sqlite://u:{}@h/x", "sqlite:u:{}@h", "sqlite:/u:{}@h/x", "memory://u:{}@h"])
def test_of_an_address_of_a_driver_without_server(form: str, secret: str) -> None:
    assert_not_told(form.format(secret), secret)


@settings(deadline=None)
@given(secret=secrets)
@pytest.mark.parametrize(
    "form", ["http://u:{}@h:1", "https://u:{}@h#x", "http:u:{}@h", "ftp://u:{}@h", "http://u:{}@[::1"]
)
@pytest.mark.parametrize("setting", ["endpoint_url", "queue_url_prefix"])
def test_of_an_address_in_a_setting_of_sqs(form: str, setting: str, secret: str) -> None:
    text = texts_of(lambda: SQSDriver(region="eu-west-1", **{setting: form.format(secret)}))  # type: ignore[arg-type]

    assert not {piece for piece in parts_of(secret) if piece in text}


def test_what_is_wrong_is_told_without_the_address() -> None:
    with pytest.raises(ConfigError, match="percent-encode") as caught:
        create_driver("redis://u:PW/x@h")

    assert "SCHEME://USER:PASSWORD@HOST:PORT" in str(caught.value)
    with pytest.raises(ConfigError, match=r"no driver 'reddis'; did you mean 'redis'\?"):
        create_driver("reddis://h")
    with pytest.raises(ConfigError, match="begins with SCHEME"):
        create_driver("redis:u:PW@h")


@pytest.mark.parametrize(
    ("url", "password"),
    [
        ("redis://u:a@b@h", "a@b"),
        ("redis://:a%2Fb%3Fc%23d%40e@h", "a/b?c#d@e"),
        ("redis://u:a:b[c]d@h", "a:b[c]d"),
        ("redis://u:100%@h", "100%"),
    ],
)
def test_a_password_that_can_be_read_is_read(url: str, password: str) -> None:
    driver = RedisDriver(url)

    assert driver._address.password == password  # pyright: ignore[reportPrivateUsage]
    assert str(driver) == "redis://***@h namespace asynctasq"
