"""
The options of the filter ``external_auth``.

The law it keeps: what is sent to the service, and what of its answer is used, is written; what goes
ill together (a decision that is kept, and a body or a cookie that it would depend on) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field as Bounds

from meshproxy.api import Field, HeaderName, Options, PositiveDuration, Size, Unfit
from meshproxy.filters._own_headers import no_framing
from meshproxy.filters._web_body import HttpUrl

__all__ = ["Decisions", "ExternalAuthOptions"]

_Names = Annotated[list[HeaderName], Bounds(max_length=64)]
_SET_HERE = ("x-forwarded-", "x-original-")


class Decisions(Options):
    """How long a request that may pass is not asked about again."""

    ttl: PositiveDuration = Field(description="How long a decision is kept.")
    headers: list[HeaderName] | None = Field(
        default=None,
        description="The headers that a decision is for; without it, all that the service is sent.",
    )
    by: list[Literal["method", "host", "path", "client_ip"]] = Field(
        default=["method", "host", "path", "client_ip"],
        description="What a decision is for besides; `path` is that with the query.",
    )
    size: int = Field(default=1000, ge=1, le=100000, description="How many decisions are kept.")


class ExternalAuthOptions(Options):
    """The service, what it is told, and what of its answer is used."""

    url: HttpUrl = Field(
        description="The service: 2xx lets the request pass, 5xx is a failure, any other answer "
        "goes to the client.",
    )
    method: Literal["GET", "HEAD", "POST", "request"] = Field(
        default="GET", description="The method of the question; `request`: that of the request."
    )
    headers: _Names = Field(
        default=["authorization", "cookie"],
        description="The request's headers that the service is sent. It is always sent "
        "`x-forwarded-method`, `-proto`, `-host`, `-uri` and `-for`, and `x-original-method` and "
        "`x-original-uri`.",
    )
    max_body: Size = Field(
        default=0,
        description="Send the request's body too, if it has no more bytes than this; a longer one "
        "is answered 413. 0 sends none.",
    )
    request_headers: _Names = Field(
        default=[],
        description="Headers of an answer that lets pass, which the request is given; a client's "
        "own of these names are removed.",
    )
    response_headers: _Names = Field(
        default=[],
        description="Headers of an answer that lets pass, which the client's response is given.",
    )
    client_headers: _Names = Field(
        default=[
            "cache-control",
            "content-language",
            "content-type",
            "location",
            "set-cookie",
            "www-authenticate",
        ],
        description="Headers of an answer that does not let pass, which the client gets.",
    )
    max_answer: Size = Field(
        default=65536, description="Bytes of an answer's body that are read; the rest is cut off."
    )
    timeout: PositiveDuration = Field(
        default=5.0, description="How long the service may take, with its whole answer."
    )
    fail: Literal["closed", "open"] = Field(
        default="closed",
        description="What becomes of requests while the service fails: refused, or let through.",
    )
    status_on_error: int = Field(
        default=403, ge=400, le=599, description="The status of those that are refused then."
    )
    concurrency: int = Field(
        default=100, ge=1, le=10000, description="Questions that are asked at a time."
    )
    queue: int = Field(
        default=1000,
        ge=0,
        le=100000,
        description="Requests that wait for their turn; for further ones, the service has failed.",
    )
    cache: Decisions | None = Field(
        default=None, description="Keep decisions that let pass; without it, none is kept."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield headers that are not the service's to give, and what no decision can be kept of."""
        yield from super().faults(given)
        for key in ("headers", "request_headers", "response_headers", "client_headers"):
            names = given.get(key)
            if not isinstance(names, list):
                continue
            yield from no_framing(names, key, sent_on=key == "request_headers")
            for index, name in enumerate(names):
                if key == "headers" and isinstance(name, str):
                    lower = name.lower().replace("_", "-")
                    if lower.startswith(_SET_HERE):
                        yield Unfit(f"'{name}' is set here", at=(key, index))
        if given.get("max_body") and given.get("method", "GET") in ("GET", "HEAD"):
            yield Unfit("a body goes with 'method: POST' or 'request'", at=("max_body",))
        if given.get("cache") is None:
            return
        if given.get("max_body"):
            yield Unfit("a decision about a body is not kept", at=("cache",))
        names = given.get("response_headers")
        for name in names if isinstance(names, list) else ():
            if isinstance(name, str) and name.lower() == "set-cookie":
                yield Unfit("one client's 'set-cookie' is not for the next one", at=("cache",))
