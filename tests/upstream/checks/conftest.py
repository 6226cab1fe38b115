"""Fixtures of the checks' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshproxy.net.reactor import MeshReactor
from tests.net import live
from tests.upstream.checks.asking import left


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of its own, in which nothing may be left when the test has passed."""
    made = MeshReactor()
    try:
        yield made
        assert left(made) == []
    finally:
        live.close(made)
