"""
The filter ``respond``: a fixed text, and the end.

The law it keeps: every client gets all of it, whatever it sends, and then the connection is closed
in order.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, Unfit
from meshproxy.interfaces import IConnectionServer

__all__ = ["Respond"]

_LONGEST = 1 << 20
"""Bytes of the longest answer."""


def _decoded(value: str) -> bytes:
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Unfit("this is not base64") from None


def _check_base64(value: str) -> str:
    if len(_decoded(value)) > _LONGEST:
        raise Unfit("an answer is at most 1 MiB")
    return value


def _check_text(value: str) -> str:
    if len(value.encode(errors="replace")) > _LONGEST:
        raise Unfit("an answer is at most 1 MiB")
    return value


@implementer(IConnectionServer)
class Respond:
    """Send a fixed text to whoever connects, and close."""

    class Options(api.Options):
        """What is sent."""

        exactly_one: ClassVar[tuple[str, ...]] = ("text", "base64")

        text: Annotated[str, AfterValidator(_check_text)] | None = Field(
            default=None, description="The text, sent as UTF-8. It ends in a newline if you say so."
        )
        base64: Annotated[str, AfterValidator(_check_base64)] | None = Field(
            default=None, description="The bytes, in base64."
        )

    def __init__(self, options: Options) -> None:
        if options.text is not None:
            self._data = options.text.encode()
        else:
            self._data = _decoded(options.base64 or "")

    def serve(self, connection: Any) -> None:
        """All of it."""
        connection.write(self._data)
        connection.close()

    def serve_data(self, connection: Any, data: bytes, end: bool) -> None:
        """Nobody listens: the connection is being closed."""
