"""Importing it takes hypothesis' limit on the time of an example away: no test asserts a time."""

from hypothesis import settings

settings.register_profile("without deadlines", deadline=None)
settings.load_profile("without deadlines")
