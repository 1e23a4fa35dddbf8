"""Tortoise models travel as app, name and key, on SQLite and PostgreSQL."""

import uuid

import pytest
import tortoise
from tortoise import fields, models
from tortoise.context import TortoiseContext

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.orm.references import ModelReference, reference_to, resolve_for_hooks, resolve_references
from asynctasq.errors import ConfigError, ModelNotFoundError, UndecodableBody, UnserializableValue
from tests.codec.orm import tortoise_archive
from tests.codec.orm.databases import KINDS, database

DEVICE_ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


class Named(models.Model):
    name = fields.CharField(max_length=255)

    class Meta:
        abstract = True


class User(Named):
    id = fields.IntField(primary_key=True)
    email = fields.CharField(max_length=255)


class Device(models.Model):
    id = fields.UUIDField(primary_key=True)
    owner = fields.ForeignKeyField("models.User")


@pytest.fixture(scope="module", params=KINDS)
def places(request, conformance_servers, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tortoise")
    with (
        database(request.param, conformance_servers, folder) as first,
        database(request.param, conformance_servers, folder) as second,
    ):
        yield first, second


@pytest.fixture
async def users(places):
    kind = places[0].kind  # Tortoise keeps SQL by the connection's name, whatever its dialect
    connections = {f"{kind}1": places[0].tortoise, f"{kind}2": places[1].tortoise}
    apps = {
        "models": {"models": [__name__], "default_connection": f"{kind}1"},
        "archive": {"models": ["tests.codec.orm.tortoise_archive"], "default_connection": f"{kind}2"},
    }
    async with TortoiseContext() as context:
        await context.init(config={"connections": connections, "apps": apps})
        await context.generate_schemas()
        await Device.all().delete()
        await User.all().delete()
        await tortoise_archive.Entry.all().delete()
        yield [await User.create(id=n, name=f"u{n}", email=f"{n}@example.org") for n in (1, 2, 3)]


async def sent(value: object, annotation: object = None, *, missing: str = "retry") -> object:
    data = pack_arguments("app:Task", {"value": value}, {"value": annotation})
    assert b"example" not in data
    return (await resolve_references(unpack_arguments(data, {"value": annotation}), missing=missing))["value"]


async def test_rows_arrive_with_what_is_in_the_database_now(users):
    await User.filter(id=2).update(email="new@example.org")

    back = await sent({"all": [users[0], (users[1], users[2])]})

    first, (second, third) = back["all"]
    assert [type(first), first.email, second.email, third.name] == [User, "1@example.org", "new@example.org", "u3"]


async def test_a_uuid_key_travels_also_from_a_row_that_was_read(users):
    await Device.create(id=DEVICE_ID, owner=users[0])

    back = await sent(await Device.get())

    assert (back.id, back.owner_id) == (DEVICE_ID, 1)
    assert (await back.owner).name == "u1"


async def test_more_rows_than_a_query_may_name_arrive(users):
    await User.bulk_create([User(id=100 + number, name="many", email="") for number in range(1200)])

    back = await sent(await User.filter(name="many").order_by("id"))

    assert [row.id for row in back] == [100 + number for number in range(1200)]


async def test_a_row_that_was_read_in_part_arrives_whole(users):
    back = await sent(await User.all().only("id").get(id=1))

    assert back.email == "1@example.org"


async def test_a_key_that_was_assigned_as_text_is_found(users):
    back = await sent(await User.create(id="7", name="x", email="x"))

    assert back.id == 7


async def test_each_app_is_asked_in_its_own_database(users, places):
    entry = await tortoise_archive.Entry.create(id=1, text="old")

    back = await sent([entry, users[0]])

    assert (back[0].text, back[1].name) == ("old", "u1")
    assert reference_to(entry) == ModelReference(orm="tortoise", model_name="archive.Entry", key=(1,))


async def test_an_unsaved_row_is_refused(users):
    with pytest.raises(UnserializableValue, match=r"^Task\.value\[0\]: .*save it before dispatch"):
        await sent([User(id=9, email="x")])


@pytest.mark.parametrize(("missing", "final"), [("retry", False), ("fail", True)])
async def test_a_row_that_is_gone_is_an_error_with_model_and_key(users, missing, final):
    await User.filter(id=3).delete()

    with pytest.raises(ModelNotFoundError, match="User has the primary key 3: it was deleted") as caught:
        await sent(users, missing=missing)

    assert (caught.value.model, caught.value.key, caught.value.final) == (f"{__name__}.User", (3,), final)


async def test_a_row_that_is_gone_can_be_none(users):
    await User.filter(id=3).delete()

    assert [row and row.id for row in await sent(users, missing="none")] == [1, 2, None]


async def test_no_connection_is_held_once_the_rows_are_there(users, places):
    await sent(users)

    client = tortoise.connections.get(f"{places[0].kind}1")
    if places[0].kind == "sqlite":
        assert not client._connection.in_transaction
    else:
        assert client._pool.get_idle_size() == client._pool.get_size() > 0


async def test_a_name_that_is_not_registered_is_refused(users):
    for name in ("models.Nobody", "nowhere.User", "User", "models.User.__class__"):
        with pytest.raises(UndecodableBody, match="not an imported tortoise model"):
            await resolve_references({"value": ModelReference(orm="tortoise", model_name=name, key=(1,))})


async def test_where_tortoise_is_not_initialised_the_error_says_how_to(users):
    data = pack_arguments("app:Task", {"value": users[0]}, {})
    with TortoiseContext():
        with pytest.raises(ConfigError, match=r"models\.User, but Tortoise is not initialised here: .*TORTOISE_ORM"):
            await resolve_references(unpack_arguments(data, {}))

        assert await resolve_for_hooks(unpack_arguments(data, {})) == {"value": None}
