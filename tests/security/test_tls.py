"""Servers that are not on this machine are reached by verified TLS, or by less if the address names it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctasq.config import Settings
from asynctasq.core.setup import driver_from
from asynctasq.drivers.tls import is_local
from asynctasq.drivers.urls import create_driver
from asynctasq.errors import ConfigError, DriverMisconfigured, DriverUnavailable
from asynctasq.kernel.messages import Message
from asynctasq.testing.servers import Servers, start_server
from tests.certificates import Files, certificates, mysql_with, postgres_with, redis_options, redis_with
from tests.drivers.redis_driver.server import RedisServer, free_node_port, free_port
from tests.patience import SOON_S, wait_until

VERIFIED = "on, certificate and host name are checked"
UNCHECKED = "no certificate is checked"

# -- what an address asks for ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://db.example/shop", VERIFIED),
        ("postgresql://db.example/shop?sslmode=verify-ca", "on, the certificate is, its host name is not checked"),
        ("postgresql://db.example/shop?sslmode=require", f"on, but by sslmode=require {UNCHECKED}"),
        ("postgresql://db.example/shop?sslmode=prefer", "off by sslmode=prefer: whoever"),
        ("postgresql://db.example/shop?sslmode=disable", "off by sslmode=disable: whoever"),
        ("postgresql://localhost,db.example/shop", VERIFIED),
        ("postgresql://localhost/shop", "off, the server is on this machine"),
        ("postgresql://[::1]:5432/shop", "off, the server is on this machine"),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/shop", "off, the server is on this machine"),
        ("postgresql:///shop", "off, the server is on this machine"),
        ("mysql://db.example/shop", VERIFIED),
        ("mysql://db.example/shop?tls=on", f"on, but by tls=on {UNCHECKED}"),
        ("mysql://db.example/shop?tls=off", "off by tls=off: whoever"),
        ("mysql://localhost/shop", "off, the server is on this machine"),
        ("mysql://db.example/shop?unix_socket=/run/mysqld.sock", "off, the server is on this machine"),
        ("rediss://cache.example", VERIFIED),
        ("rediss://cache.example?ssl_cert_reqs=none", f"on, but by ssl_cert_reqs=none {UNCHECKED}"),
        ("rediss://cache.example?ssl_check_hostname=no", "on, the certificate is, its host name is not checked"),
        ("rediss+sentinel://one.example,two.example/main", VERIFIED),
        ("redis+sentinel://one.example/main", "off by the scheme of the address: whoever"),
        ("rediss+cluster://one.example,two.example", VERIFIED),
        ("redis://cache.example", "off by the scheme of the address: whoever"),
        ("redis://127.0.0.1", "off, the server is on this machine"),
        ("sqs://", VERIFIED),
        ("sqs://?endpoint_url=http://queue.example", "off by endpoint_url: whoever"),
        ("sqlite:///queue.db", ""),
    ],
)
def test_a_driver_tells_how_its_connections_are_protected(url: str, told: str) -> None:
    driver = create_driver(url)

    assert driver.tls == told or (told.endswith(("whoever", UNCHECKED)) and driver.tls.startswith(told))


@pytest.mark.parametrize("name", ["PGHOST", "PGSERVICE"])
def test_a_host_that_the_environment_names_is_verified(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "db.example")

    assert create_driver("postgresql:///shop").tls == VERIFIED


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql://h/d?sslmode=bogus", "'sslmode' must be one of disable, allow, prefer"),
        ("postgresql://h/d?sslmode=require&sslrootcert=ca.pem", "'sslrootcert' checks nothing with sslmode=require"),
        ("postgresql://localhost/d?sslcert=me.pem", "'sslcert' and 'sslkey' need sslmode=require"),
        ("mysql://h/d?tls=on&tls_ca=ca.pem", "'tls_ca' checks nothing with tls=on"),
    ],
)
def test_options_that_would_check_nothing_are_refused(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        create_driver(url)


@given(st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{2,8}){0,3}", fullmatch=True) | st.ip_addresses().map(str))
def test_only_loopback_is_local(host: str) -> None:
    expected = host.rsplit(".", maxsplit=1)[-1] == "localhost" or host.startswith("127.") or host == "::1"

    assert is_local(host) == expected


def test_a_password_setting_holds_for_sentinels_with_tls() -> None:
    settings = Settings(redis_password="s3cret")

    assert driver_from(settings, "rediss+sentinel://h/main")._address.password == "s3cret"  # type: ignore[attr-defined]


# -- servers with TLS ------------------------------------------------------------------------------


@contextmanager
def serving(kind: str) -> Iterator[tuple[str, Files]]:
    """Run a server whose certificate is for `localhost`; yield its address, with `HOST` to fill in."""
    with certificates("localhost", kind=kind) as files:
        if kind == "redis":
            with redis_with(files) as port:
                yield f"rediss://HOST:{port}?", files
        elif kind == "postgres":
            with postgres_with(files) as server:
                yield server.url.replace("127.0.0.1", "HOST") + "?auto_migrate=1&", files
        else:
            with mysql_with(files) as server:
                yield server.url.replace("127.0.0.1", "HOST") + "?", files


AUTHORITY = {"redis": "ssl_ca_certs", "postgres": "sslrootcert", "mysql": "tls_ca"}
LESS = {"redis": "ssl_cert_reqs=none", "postgres": "sslmode=require", "mysql": "tls=on"}


@pytest.mark.parametrize("kind", ["redis", "postgres", "mysql"])
async def test_the_certificate_of_a_server_is_checked(kind: str) -> None:
    with serving(kind) as (url, files):
        authority = f"{AUTHORITY[kind]}={files.authority}"

        await use(url.replace("HOST", "localhost") + authority)
        await refuse(url.replace("HOST", "127.0.0.1") + authority, "is refused:.*not valid for '127.0.0.1'")
        await refuse(url.replace("HOST", "localhost") + f"{AUTHORITY[kind]}={files.stranger}", AUTHORITY[kind])
        # 0.0.0.0 leads to this machine, but is not known as such: everything is checked though nothing says so.
        await refuse(
            url.replace("HOST", "0.0.0.0"), f"is refused: .*name the file of its authority with {AUTHORITY[kind]}"
        )
        await use(url.replace("HOST", "0.0.0.0") + LESS[kind])


async def use(url: str) -> None:
    driver = create_driver(url)
    try:
        if "mysql" in url:
            await driver.migrate()  # type: ignore[attr-defined]
        await driver.enqueue([Message(id=url, queue="q", body=b"x")])
        assert driver.tls.startswith("on, ")
    finally:
        await driver.close()


async def refuse(url: str, words: str) -> None:
    driver = create_driver(url)
    try:
        with pytest.raises(DriverMisconfigured, match=words):
            await driver.open()
    finally:
        await driver.close()


@pytest.mark.parametrize(("kind", "named"), [("postgres", "sslmode=disable"), ("mysql", "tls=off")])
async def test_a_server_without_tls_is_refused_unless_that_is_named(
    conformance_servers: Servers, kind: str, named: str
) -> None:
    url = conformance_servers.get(kind).url.replace("127.0.0.1", "0.0.0.0")

    await refuse(url, f"offers no TLS.*{named}")
    await create_driver(f"{url}?{named}").schema_version()  # type: ignore[attr-defined] # connects, or raises


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    with certificates("localhost", kind="postgres") as files:
        server = start_server(
            "postgres",
            *("-c", "ssl=on", "-c", f"ssl_cert_file={files.certificate}", "-c", f"ssl_key_file={files.key}"),
            *("-c", f"ssl_ca_file={files.authority}"),
        )
        try:
            url = f"{server.url}?auto_migrate=1&sslmode=verify-ca&sslrootcert={files.authority}"
            driver = create_driver(f"{url}&sslcert={files.certificate}&sslkey={files.key}")
            shown = "SELECT client_dn FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
            [(name,)] = await driver._fetch(shown)  # type: ignore[attr-defined]
            await driver.close()
        finally:
            server.remove()

    assert "trustme" in name


async def test_sentinels_and_masters_are_verified() -> None:
    with certificates("127.0.0.1") as files, redis_with(files) as master:
        port = free_port()
        config = f"tls-port {port}\ntls-replication yes\nsentinel monitor main 127.0.0.1 {master} 1\n"
        with RedisServer(*redis_options(files), sentinel_config=config):
            url = f"rediss+sentinel://127.0.0.1:{port}/main?ssl_ca_certs="
            driver = create_driver(url + str(files.authority))
            assert await driver.enqueue([Message(id="m", queue="q", body=b"x")]) == ["m"]
            await driver.close()
            stranger = create_driver(url + str(files.stranger))
            with pytest.raises(DriverUnavailable, match=r"no sentinel knows.*certificate verify failed"):
                await stranger.open()


async def test_nodes_of_a_cluster_are_verified() -> None:
    with certificates("127.0.0.1") as files:
        port = free_node_port()
        tls = ("--tls-port", str(port), "--tls-cluster", "yes", *redis_options(files))
        with RedisServer("--cluster-enabled", "yes", *tls) as node:
            node.ask("CLUSTER ADDSLOTSRANGE 0 16383")
            wait_until(lambda: b"cluster_state:ok" in node.ask("CLUSTER INFO"), "the cluster is complete")
            url = f"rediss+cluster://127.0.0.1:{port}?ssl_ca_certs="
            await use(url + str(files.authority))
            stranger = create_driver(url + str(files.stranger))
            with pytest.raises(DriverUnavailable, match=r"no node of the cluster knows.*certificate verify failed"):
                await stranger.open()


# -- the banner ------------------------------------------------------------------------------------


def test_the_banner_tells_of_less_than_verified_tls(tmp_path: Path, conformance_servers: Servers) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    url = conformance_servers.redis().url.replace("127.0.0.1", "0.0.0.0")
    command = [sys.executable, "-m", "asynctasq", "worker", "--burst", "--json", "--driver", url]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SOON_S, check=False)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[0])["tls"]
    assert told == "off by the scheme of the address: whoever is on the way can read and change messages"
