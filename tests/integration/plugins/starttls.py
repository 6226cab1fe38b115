"""A filter that speaks a protocol with a word for beginning TLS."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from meshproxy.api import FilterPlugin
from meshproxy.interfaces import IBytesFilter


@implementer(IBytesFilter)
class StartTls:
    """``STARTTLS`` is answered here and never passed on."""

    def received(self, connection: Any, data: bytes, end: bool) -> Any:
        """Begin TLS when the client asks for it."""
        if connection.tls is None and data.startswith(b"STARTTLS\n"):
            connection.write(b"GO\n")
            return self.begin(connection)
        return None

    async def begin(self, connection: Any) -> bytes:
        """Nothing goes on before the handshake is over."""
        facts = await connection.start_tls()
        connection.write(b"HELLO " + facts.server_name + b"\n")
        return b""

    def sent(self, connection: Any, data: bytes, end: bool) -> None:
        """As it is."""


starttls = FilterPlugin("starttls", "Begins TLS when the client asks for it.", StartTls)
