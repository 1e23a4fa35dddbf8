"""Tortoise models travel as class and key."""

import pytest
import tortoise
from tortoise import fields, models

from asynctasq.codec.arguments import pack_arguments, unpack_arguments
from asynctasq.codec.references import resolve_references
from asynctasq.errors import ModelNotFoundError, UnserializableValue


class User(models.Model):
    id = fields.IntField(primary_key=True)
    email = fields.CharField(max_length=255)


@pytest.fixture
async def users(tmp_path):
    await tortoise.Tortoise.init(db_url=f"sqlite://{tmp_path}/app.db", modules={"models": [__name__]})
    await tortoise.Tortoise.generate_schemas()
    yield [await User.create(email=f"{number}@example.org") for number in (1, 2, 3)]
    await tortoise.Tortoise.close_connections()


async def test_models_come_back_as_fresh_rows(users):
    data = pack_arguments("app:Task", {"users": users}, {"users": list[User]})
    await User.filter(id=2).update(email="new@example.org")

    back = (await resolve_references(unpack_arguments(data, {"users": list[User]})))["users"]

    assert [user.email for user in back] == ["1@example.org", "new@example.org", "3@example.org"]
    assert b"example" not in data


async def test_a_missing_row_is_named(users):
    data = pack_arguments("app:Task", {"user": users[2]}, {})
    await users[2].delete()

    with pytest.raises(ModelNotFoundError, match="User has the primary key 3"):
        await resolve_references(unpack_arguments(data, {}))


async def test_an_unsaved_model_is_an_error_at_dispatch(users):
    with pytest.raises(UnserializableValue, match=r"^Task\.user: .*save it before dispatch"):
        pack_arguments("app:Task", {"user": User(id=9, email="x")}, {})
