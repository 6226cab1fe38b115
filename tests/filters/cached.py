"""What the tests of the filter cache are written with."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

from meshproxy.api import Response
from meshproxy.filters.cache import Cache
from meshproxy.testing import Driven, Kit

WALL = 1_700_000_000
Pairs = list[tuple[bytes, bytes]]


def made(**options: Any) -> Cache:
    """A filter with these options, as a configuration writes them."""
    return Cache(Cache.Options.model_validate(options))


def a_kit() -> Kit:
    """A kit at the time of these tests."""
    return Kit(wall=WALL)


def date(seconds: float) -> bytes:
    """An HTTP date, so many seconds from the beginning of the test."""
    return formatdate(WALL + seconds, usegmt=True).encode()


def cc(value: bytes) -> tuple[bytes, bytes]:
    """A Cache-Control field."""
    return (b"cache-control", value)


def answering(*headers: tuple[bytes, bytes], body: bytes = b"hello", status: int = 200) -> Response:
    """What an endpoint says."""
    return Response(status, body, list(headers))


ETAG = (b"etag", b'"1"')
MINUTE = cc(b"max-age=60")


def waiting(kit: Kit, held: Cache, count: int, **request: Any) -> tuple[Driven, list[Driven]]:
    """One request under way, and those that wait for it."""
    first = kit.drive(held, response=None, **request)
    others = [kit.drive(held, response=answering(body=b"own"), **request) for _ in range(count)]
    return first, others
