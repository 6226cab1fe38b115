"""Refusals."""

from __future__ import annotations

from meshproxy.net.refuse import Refuse


def test_what_a_refusal_says() -> None:
    """It ends in order by default, says why, and can be read in a log."""
    refusal = Refuse()
    assert (refusal.reset, refusal.data, refusal.details) == (False, b"", b"filter_refused")
    shown = repr(Refuse(reset=True, data=b"x", details=b"why"))
    assert shown == "Refuse(reset=True, data=b'x', details=b'why')"
