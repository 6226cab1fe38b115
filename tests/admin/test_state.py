"""What the admin asks of the proxy."""

from __future__ import annotations

from meshproxy.admin.state import AdminState
from tests.admin.fakes import State


def test_a_plain_object_is_a_state() -> None:
    """The protocol asks for nothing that a plain object cannot have."""
    state: AdminState = State()
    assert state.ready()
    assert state.version == "1.2.3"
