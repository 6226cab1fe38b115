"""The proxy before all faults, started once for the tests that leave its servers as they are."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from tests.integration.faults.mesh import Mesh, mesh
from tests.integration.faults.servers import (
    FAULTS,
    AnyFault,
    ClosesInTheBody,
    Dawdles,
    Honest,
    NeverAccepts,
    ResetsInTheBody,
    StallsInTheBody,
)


@pytest.fixture(scope="session")
def faults() -> Iterator[Mesh]:
    """All faults with retries and with a breaker beside them, some in other ways too."""
    pairs = (
        *product(("retries", "both"), (Honest, *FAULTS)),
        *product(("hedged",), (AnyFault, Dawdles, NeverAccepts, StallsInTheBody)),
        *product(("direct",), (ResetsInTheBody, ClosesInTheBody)),
    )
    with mesh(pairs) as running:
        yield running
        assert running.settled()
