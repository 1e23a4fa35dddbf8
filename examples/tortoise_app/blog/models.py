from tortoise import fields
from tortoise.models import Model


class Author(Model):
    id = fields.IntField(primary_key=True)
    email = fields.CharField(max_length=255, unique=True)


class Post(Model):
    id = fields.IntField(primary_key=True)
    title = fields.CharField(max_length=200)
    author = fields.ForeignKeyField("models.Author", related_name="posts")
    announced = fields.BooleanField(default=False)
    indexed = fields.BooleanField(default=False)
