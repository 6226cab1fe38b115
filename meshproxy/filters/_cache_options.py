"""
What a configuration says of a cache.

The law it keeps: every default is what RFC 9111 says a shared cache does; whatever goes beyond it
is written down by whoever wants it.
"""

from __future__ import annotations

from typing import Literal

from meshproxy import api
from meshproxy.api import Field
from meshproxy.filters._match import Applies
from meshproxy.filters._networks import Network

__all__ = ["Bypass", "Collapse", "DiskOptions", "KeyOptions", "Options", "Purge"]


class KeyOptions(api.Options):
    """What makes two URLs one."""

    ignore_query: list[str] = Field(
        default=[],
        description="Parameters of the query that make no difference, such as `utm_source`. They "
        "are sent on all the same.",
    )
    sort_query: bool = Field(
        default=False, description="Take the parameters of the query in any order."
    )


class Bypass(api.Options):
    """Requests that go past the cache: nothing is served from it, and nothing is stored."""

    headers: list[api.HeaderName] = Field(
        default=[], description="Requests that have one of these headers."
    )
    cookies: list[str] = Field(default=[], description="Requests that have one of these cookies.")


class Collapse(api.Options):
    """Identical requests at a time wait for the response to one of them."""

    waiters: int = Field(
        default=100, ge=0, le=100_000, description="How many wait for one request; 0: nobody does."
    )
    wait: api.PositiveDuration = Field(
        default=5.0, description="How long they wait before they go on by themselves."
    )
    apart: api.Duration = Field(
        default=10.0,
        description="For how long nobody waits after a response that could not be shared.",
    )


class DiskOptions(api.Options):
    """Keep responses in files as well."""

    directory: str = Field(
        min_length=1,
        description="Where, relative to the configuration file; created if it is not there. Each "
        "cache of each listener needs one of its own.",
    )
    size: api.Size = Field(default=1 << 30, description="Bytes of all files together.")
    files: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="How many files; each takes about 1 KiB of memory.",
    )


class Purge(api.Options):
    """Let clients drop stored responses by the method PURGE."""

    networks: list[Network] = Field(
        min_length=1, description="Addresses and networks whose clients may; `unix` is any socket."
    )


class Options(api.Options):
    """Keep responses and serve them again (RFC 9111)."""

    memory: api.Size = Field(
        default=64 << 20,
        description="Bytes of memory for responses and what goes with them; bodies that are not "
        "complete yet take up to a quarter of it besides, or `max_entry`.",
    )
    max_entry: api.Size = Field(
        default=1 << 20,
        description="Bytes of the largest body that is stored, if `memory` holds as much.",
    )
    variants: int = Field(
        default=16, ge=1, le=1024, description="How many responses of one URL that `vary`."
    )
    disk: DiskOptions | None = Field(default=None, description="Keep responses in files as well.")
    match: Applies | None = Field(
        default=None,
        description="Which requests are answered and whose responses are stored; without it, "
        "every GET and HEAD (HEAD is answered from what is stored of GET).",
    )
    key: KeyOptions = Field(default=KeyOptions(), description="What makes two URLs one.")
    bypass: Bypass = Field(default=Bypass(), description="Requests that go past the cache.")
    client_control: bool = Field(
        default=True,
        description="Obey the `cache-control` and `pragma` of requests, by which clients can have "
        "the origin asked.",
    )
    heuristic: api.Duration = Field(
        default=86400.0,
        description="A response without a word of its freshness is fresh for a tenth of the time "
        "since its `last-modified`, and for so long at most; 0: it is not fresh.",
    )
    lifetime: api.Duration = Field(
        default=0.0,
        description="How long a response is fresh that has no `last-modified` either, where its "
        "status allows to guess (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501).",
    )
    stale_while_revalidate: api.Duration = Field(
        default=0.0,
        description="How long after its lifetime a response is served at once, and asked for "
        "anew beside it, where it does not say so itself (RFC 5861).",
    )
    stale_if_error: api.Duration = Field(
        default=0.0,
        description="How long after its lifetime a response is served in place of a 500, 502, 503 "
        "or 504, where it does not say so itself (RFC 5861).",
    )
    background: int = Field(
        default=16, ge=1, le=1024, description="How many responses are asked for anew at a time."
    )
    set_cookie: Literal["pass", "strip", "keep"] = Field(
        default="pass",
        description="What becomes of a response with `set-cookie`: `pass`: it is not stored; "
        "`strip`: it is stored without its cookies; `keep`: it is stored with them, and everybody "
        "gets them.",
    )
    collapse: Collapse = Field(
        default=Collapse(), description="Identical requests at a time wait for one of them."
    )
    purge: Purge | None = Field(
        default=None, description="Answer PURGE by dropping what is stored; without it, nobody can."
    )
    cache_status: str = Field(
        default="",
        pattern=r"^([A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]{0,63})?$",
        description="Say what the cache did in the header `cache-status` (RFC 9211), under this "
        "name; empty: it is not said.",
    )
