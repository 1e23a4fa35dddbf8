"""One table; its rows of the same key are in the developer's database and in the test's."""

from django.db import models


class Post(models.Model):
    title = models.CharField(max_length=50)
    views = models.IntegerField(default=0)
