from typing import Any

from zope.interface import implementer

from meshproxy.api import Field, FilterPlugin, Options, Refuse
from meshproxy.interfaces import IBytesFilter, IConnectionFilter, IContextFilter


@implementer(IConnectionFilter, IBytesFilter, IContextFilter)
class Banner:
    """Greet every client but some, and count the lines that it sends."""

    class Options(Options):
        """What is said, and to whom."""

        text: str = Field(description="The greeting.")
        refuse: list[str] = Field(default=[], description="Addresses that are refused.")

    def __init__(self, options: Options) -> None:
        self._text = options.text.encode()
        self._refused = frozenset(address.encode() for address in options.refuse)

    def attach(self, context: Any) -> None:
        self._lines = context.counter("lines", "Lines from clients")

    def connected(self, connection: Any) -> Refuse | None:
        if connection.client_ip in self._refused:
            return Refuse(details=b"unwanted")
        connection.write(self._text)
        return None

    def received(self, connection: Any, data: bytes, end: bool) -> None:
        self._lines.inc(data.count(b"\n"))

    def sent(self, connection: Any, data: bytes, end: bool) -> bytes:
        return data.replace(b"password", b"********")


banner = FilterPlugin("banner", "Greet every client.", Banner)
