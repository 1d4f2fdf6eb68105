"""What the tests of remote files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from glacierhpc.scenes.remote import access, http


@pytest.fixture
def new_to_all() -> Iterator[None]:
    """Forget proxies, passwords and cookies before a test that brings its own, and after it."""
    caches = (http._pools, access._password, access._jar)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()
