"""Models of a second Tortoise app, in a database of its own."""

from tortoise import fields, models


class Entry(models.Model):
    id = fields.IntField(primary_key=True)
    text = fields.CharField(max_length=50)
