"""
The filter ``echo``: every byte comes back.

The law it keeps: what a client sends is what it gets, and after its end it gets the end; a client
that does not read is not read from (the connection's law).
"""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from meshproxy.interfaces import IConnectionServer

__all__ = ["Echo"]


@implementer(IConnectionServer)
class Echo:
    """Send back what comes."""

    def serve(self, connection: Any) -> None:
        """Nothing has to be said first."""

    def serve_data(self, connection: Any, data: bytes, end: bool) -> None:
        """Back."""
        if data:
            connection.write(data)
        if end:
            connection.close()
