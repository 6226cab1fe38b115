"""Fixtures of the HTTP room."""

from __future__ import annotations

from tests.http.world import world

__all__ = ["world"]
