"""Groups: what a route chooses from."""

from __future__ import annotations

from tests.upstream.made import cluster


def test_by_hash() -> None:
    """A group knows whether the cluster balances by hash."""
    assert cluster(balance="maglev").group().by_hash
    assert not cluster().group().by_hash
