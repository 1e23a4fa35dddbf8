"""The parts of the Redis driver that need no server: addresses, judgements about a server, the script files."""

import re
from importlib.resources import files

import pytest

from asynctasq.drivers.redis_driver import RedisDriver
from asynctasq.drivers.redis_driver.address import RedisOptions, parse_address
from asynctasq.drivers.redis_driver.pool import SCRIPT_PARTS
from asynctasq.drivers.redis_driver.server_checks import check_version, parse_info, warnings_about
from asynctasq.drivers.urls import create_driver, read_address
from asynctasq.errors import ConfigError, DriverMisconfigured

# -- addresses -----------------------------------------------------------------------------------


def parse(url: str) -> tuple[object, ...]:
    address = parse_address(read_address("redis driver", url), password=None, db=None, options=RedisOptions())
    return address.hosts, address.db, address.username, address.password, address.tls, address.service


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", ((("localhost", 6379),), 0, None, None, False, None)),
        ("redis://host", ((("host", 6379),), 0, None, None, False, None)),
        ("redis://:p%40ss@host:1/3", ((("host", 1),), 3, None, "p@ss", False, None)),
        ("rediss://me:p@ss@[::1]:2", ((("::1", 2),), 0, "me", "p@ss", True, None)),
        ("redis+sentinel://a,b:7/main/2", ((("a", 26379), ("b", 7)), 2, None, None, False, "main")),
    ],
)
def test_an_address_is_read_from_the_url(url: str, expected: tuple[object, ...]) -> None:
    assert parse(url) == expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://host", "has no scheme of"),
        ("redis://a,b", r"several hosts; say what they are: redis\+cluster://"),
        ("redis+cluster://a,b/1", "a cluster has database 0 only"),
        ("redis+sentinel://a", "lacks the service"),
        ("redis://host:port", "the port a number"),
        ("redis://:secret@host/x", "db in"),
        ("redis://host?namespce=x", "did you mean 'namespace'"),
        ("redis://host?namespace={x}", "namespace '{x}'"),
        ("redis://host?max_connections=0", "at least 1"),
        ("redis://host?reply_timeout_s=0", "above 0"),
        ("redis://host?body_bytes_max=999999999", "511 MiB"),
        ("redis://host?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
    ],
)
def test_a_wrong_address_is_refused_in_words(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        RedisDriver.from_url(url)
    assert "secret" not in str(caught.value)


def test_arguments_win_over_the_url() -> None:
    driver = RedisDriver("redis://:one@host/1?namespace=a&clock_offset=5", db=2, namespace="b", password="two")

    assert (driver._address.db, driver._address.password, driver._namespace) == (2, "two", "b")
    assert driver.clock_offset == 5


def test_the_text_of_a_driver_holds_no_password() -> None:
    driver = create_driver("redis://me:secret@host:1/2?namespace=n")

    assert str(driver) == "redis://***@host:1/2 namespace n"
    assert "secret" not in repr(vars(driver))


# -- checks at the start -------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7", "2.8"])
def test_a_server_that_is_too_old_is_refused(version: str) -> None:
    with pytest.raises(DriverMisconfigured, match=re.escape(f"is Redis {version}; asynctasq needs Redis 6.2")):
        check_version({"redis_version": version}, "redis://host")


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.2.4", "8.0.1", ""])
def test_a_server_that_is_new_enough_or_hides_its_version_is_taken(version: str) -> None:
    check_version(parse_info(f"# Server\r\nredis_version:{version}\r\n".encode()), "redis://host")


@pytest.mark.parametrize(
    ("info", "save", "words"),
    [
        ({"maxmemory_policy": "noeviction", "aof_enabled": "1"}, "", []),
        ({"maxmemory_policy": "allkeys-lru", "aof_enabled": "1"}, "", ["deletes keys, and with them whole queues"]),
        ({"maxmemory_policy": "noeviction", "aof_enabled": "0"}, "", ["a restart loses every message"]),
        ({"maxmemory_policy": "noeviction", "aof_enabled": "0"}, "60 1", ["it makes snapshots only"]),
        ({"maxmemory_policy": "noeviction", "aof_enabled": "0"}, None, ["snapshots could not be checked"]),
        ({}, None, ["maxmemory-policy could not be checked", "persistence could not be checked"]),
    ],
)
def test_settings_that_lose_messages_are_named(info: dict[str, str], save: str | None, words: list[str]) -> None:
    found = warnings_about(info, save)

    assert len(found) == len(words)
    assert all(expected in warning for expected, warning in zip(words, found, strict=True))


# -- scripts -------------------------------------------------------------------------------------


def test_every_script_file_is_used_and_in_the_package() -> None:
    used = {part for parts, _ in SCRIPT_PARTS.values() for part in parts}
    present = {
        entry.name.removesuffix(".lua") for entry in (files("asynctasq.drivers.redis_driver") / "scripts").iterdir()
    }

    assert used == present
