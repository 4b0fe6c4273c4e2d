"""Applies to every test."""

from hypothesis import settings

# How long an example takes says nothing on a machine that does other work besides.
settings.register_profile("edge", deadline=None)
settings.load_profile("edge")
