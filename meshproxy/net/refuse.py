"""
The answer of a filter that does not want a connection.

The law it keeps: a refusal says how the connection ends and why, and nothing else; whoever gets
one carries it out.
"""

from __future__ import annotations

__all__ = ["Refuse"]


class Refuse:
    """
    End this connection.

    ``reset``: by a RST, else in order, after ``data`` (bytes, sent where the protocol is known to
    be plain TCP). ``details`` is one word for the access log and ``flags`` Envoy's response flags.
    """

    __slots__ = ("data", "details", "flags", "reset")

    def __init__(
        self,
        *,
        reset: bool = False,
        data: bytes = b"",
        details: bytes = b"filter_refused",
        flags: bytes = b"-",
    ) -> None:
        self.reset = reset
        self.data = data
        self.details = details
        self.flags = flags

    def __repr__(self) -> str:
        return f"Refuse(reset={self.reset!r}, data={self.data!r}, details={self.details!r})"
