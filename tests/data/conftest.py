"""Shared by the tests of the data package."""

from __future__ import annotations

from hypothesis import settings

# A busy machine makes single examples slow; the suite's own time limits are enough.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")
