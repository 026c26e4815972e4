"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine may take its time with any example: how long one took says nothing about the code.
settings.register_profile("symphony", deadline=None)
settings.load_profile("symphony")
