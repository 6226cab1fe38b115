"""
From the bytes of a roster to endpoints, for whatever source they come from.

The law it keeps: what takes long to read is read in a thread, so that no connection waits for it;
only the first reading, before there are any, may be done in place.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.threads import deferToThreadPool

from meshproxy.config.roster import LONGEST_ROSTER, decode_roster, read_roster
from meshproxy.errors import ConfigError
from meshproxy.upstream.cluster import spec_of
from meshproxy.upstream.endpoint import EndpointSpec

_SHORT = 32 << 10
"""Bytes that are read in place: 20 ms of JSON, 300 ms of the most tangled YAML."""


def read_listing(content: bytes, filename: str, yaml: bool) -> tuple[EndpointSpec, ...]:
    """The endpoints. Raises :class:`meshproxy.errors.ConfigError`."""
    text = decode_roster(content, filename)
    return tuple(spec_of(endpoint) for endpoint in read_roster(text, filename, yaml=yaml))


def read_aside(
    reactor: Any, content: bytes, filename: str, yaml: bool
) -> Deferred[tuple[EndpointSpec, ...]]:
    """A Deferred of ``read_listing``, which has fired already when the content is short.

    (Or too long: that is refused unread.)
    """
    if not _SHORT < len(content) <= LONGEST_ROSTER:
        return execute(read_listing, content, filename, yaml)
    pool = reactor.getThreadPool()
    return deferToThreadPool(reactor, pool, read_listing, content, filename, yaml)


def reason_of(error: ConfigError) -> str:
    """The first thing that is wrong, in one line, and how many there are beside it."""
    first, *others = error.problems
    return f"{first} (and {len(others)} more)" if others else str(first)
