"""Every test of this room runs twice: with bytes moved by the kernel, and by transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.tcp.mesh import REACTORS, Mesh

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=list(REACTORS))
def mesh(request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """A mesh on a reactor of its own; closed, and found clean, afterwards."""
    mesh = Mesh(request.param)
    yield mesh
    mesh.close()
