"""
Health checks of the proxy itself, answered here.

The law it keeps: a health check never reaches an endpoint more often than ``cache`` allows, and the
operator's file decides over everything: while it is there, the proxy says that it fails, so that a
balancer in front stops sending. The file is looked for at most once a second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator
from zope.interface import alsoProvides, implementer

from meshproxy import api
from meshproxy.api import Field, PathText, PositiveDuration, Response, Unfit
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter, IResponseFilter

__all__ = ["Health"]

_LOOK = 1.0
"""Seconds between two looks for the file."""


@implementer(IRequestFilter, IContextFilter)
class Health:
    """
    Answer health checks: 200 ``ok``, or 503 ``failing``.

    Requests for one of ``paths`` by GET or HEAD are health checks; all others go on.
    """

    class Options(api.Options):
        """Which requests are health checks, and what they are answered."""

        one_or_several: ClassVar[frozenset[str]] = frozenset({"paths"})

        paths: Annotated[
            list[PathText],
            BeforeValidator(
                lambda value: value if isinstance(value, list) else [value],
                json_schema_input_type=str | list[str],
            ),
            Field(min_length=1),
        ] = Field(default=["/healthz"], description="The paths of health checks, whole.")
        mode: Literal["answer", "pass"] = Field(
            default="answer",
            description="`answer` them here; `pass` one to the endpoint, and answer others like it "
            "for the time of `cache`.",
        )
        cache: PositiveDuration = Field(
            default=1.0,
            description="How long the status of one that was passed on is given to others.",
        )
        fail_file: str | None = Field(
            default=None,
            min_length=1,
            description="While there is such a file, health checks are answered 503. Relative to "
            "the configuration.",
        )
        body: Literal["text", "json"] = Field(
            default="text",
            description="Answer the word, or as JSON `status`, `listener` and `uptime_seconds`.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield a time for what is not kept."""
            yield from super().faults(given)
            if "cache" in given and given.get("mode") != "pass":
                yield Unfit("'cache' does nothing without 'mode: pass'", at=("cache",))

    def __init__(self, options: Options) -> None:
        self._paths = frozenset(path.encode() for path in options.paths)
        self._passes = options.mode == "pass"
        self._cache = options.cache
        self._given_file = options.fail_file
        self._file = ""
        self._json = options.body == "json"
        self._failing = False
        self._look_at = float("-inf")
        # The status of the last one that was passed on, 0 for none, and until when it is good.
        self._status = 0
        self._until = float("-inf")
        if self._passes:
            alsoProvides(self, IResponseFilter)

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._now = context.now
        self._listener = context.listener
        self._began = context.now()
        if self._given_file is not None:
            self._file = context.path(self._given_file)
        self._well = context.counter("ok", "Health checks answered well")
        self._ill = context.counter("failing", "Health checks answered with a failure")
        self._passed = context.counter("passed", "Health checks passed on")

    def request(self, exchange: Any) -> Response | None:
        """Part of ``IRequestFilter``."""
        request = exchange.request
        if request.path not in self._paths or request.method not in (b"GET", b"HEAD"):
            return None
        now = self._now()
        if self._file and self._fails(now):
            return self._answer(503, now, b"health_check_fail_file")
        if not self._passes:
            return self._answer(200, now, b"health_check_ok")
        if now < self._until and self._status:
            return self._answer(self._status, now, b"health_check_cached")
        # One goes on; until it has an answer the others get the last one.
        self._until = now + self._cache
        self._passed.inc()
        exchange.notes[self] = True
        return None

    def response(self, exchange: Any) -> None:
        """Part of ``IResponseFilter``; provided with ``mode: pass``."""
        if exchange.request.path in self._paths and self in exchange.notes:
            status = exchange.response.status
            if 300 <= status < 500 and status not in (404, 429):
                # It may say more of what this client sent than of the endpoint.
                self._until = float("-inf")
                return
            self._status = max(status, 200)
            self._until = self._now() + self._cache

    def _fails(self, now: float) -> bool:
        if now >= self._look_at:
            self._look_at = now + _LOOK
            self._failing = os.path.exists(self._file)
        return self._failing

    def _answer(self, status: int, now: float, details: bytes) -> Response:
        well = status < 400
        (self._well if well else self._ill).inc()
        if status in (204, 205, 304):
            return Response(status, details=details)
        word = "ok" if well else "failing"
        headers = [(b"cache-control", b"no-store")]
        if not self._json:
            return Response(status, word.encode(), headers, details=details)
        body = {
            "status": word,
            "listener": self._listener,
            "uptime_seconds": round(now - self._began, 3),
        }
        headers.append((b"content-type", b"application/json"))
        return Response(status, json.dumps(body).encode(), headers, details=details)
