"""When a request is sent again, and what is sent twice on purpose.

Law: a request that may have had an effect is sent again only if its method says that this is
harmless (RFC 9110 section 9.2.2), or the one who wrote the file or the request says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from meshproxy.config.fields import Duration, HeaderName, PositiveDuration, Size
from meshproxy.config.health import StatusRange
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit
from meshproxy.config.values import format_duration, seconds_of

__all__ = ["Backoff", "Mirror", "Retry"]

Condition = Literal[
    "connect-failure",
    "refused-stream",
    "reset",
    "5xx",
    "gateway-error",
    "retriable-4xx",
]


_BREAKS = ("reset", "gateway-error", "5xx")
"""Conditions under which a try that takes too long counts as failed."""


class Backoff(Section):
    """Pauses before retries, by chance between 0 and a bound that grows with each retry."""

    base: PositiveDuration = Field(
        default=0.025,
        description="The bound of the first pause; that of the second is 3 times, of the third 7 "
        "times as long, and so on.",
    )
    max: PositiveDuration | None = Field(
        default=None, description="The longest pause; 10 × `base` otherwise."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield bounds that contradict each other."""
        yield from super().faults(given)
        base = seconds_of(given.get("base"), 0.025)
        if seconds_of(given.get("max"), base) < base:
            yield Unfit(f"this is shorter than 'base' ({format_duration(base)})", at=("max",))


class Retry(Section):
    """Send a failed request again, to another endpoint if there is one."""

    on: list[Condition] = Field(
        default=["connect-failure", "refused-stream", "reset"],
        description="What is retried: `connect-failure` (no connection), `refused-stream` (closed "
        "before the endpoint took a byte), `reset` (closed, reset, garbage or a try timed out "
        "before the response), `gateway-error` (502, 503, 504, and reset), `5xx` (any, and reset), "
        "`retriable-4xx` (409).",
    )
    attempts: int = Field(
        default=1, ge=0, le=100, description="Most retries of a request, the first try not counted."
    )
    statuses: list[StatusRange] = Field(default=[], description="Statuses retried besides `on`.")
    headers: list[HeaderName] = Field(
        default=[], description="Responses with any of these headers are retried."
    )
    per_try_timeout: Duration = Field(
        default=0.0,
        description="How long each try may take; 0 for no limit but the exchange's. It needs "
        "`reset`, `5xx` or `gateway-error`, or 504 is the answer at once.",
    )
    backoff: Backoff = Field(default=Backoff(), description="The pauses before retries.")
    max_retry_after: Duration = Field(
        default=5.0,
        description="A response's `retry-after` up to this is obeyed; a longer one ends the "
        "retries. 0 to ignore it.",
    )
    non_idempotent: bool = Field(
        default=False,
        description="Retry POST and PATCH too when a part of them may have had an effect; "
        "otherwise that takes an `idempotency-key` header.",
    )
    max_body: Size = Field(
        default=65536,
        description="Bytes of a request's body kept for sending again; a longer one is not retried "
        "once it was sent.",
    )
    response_buffer: Size = Field(
        default=65536,
        description="With `reset`, `gateway-error` or `5xx`, a response of known length up to this "
        "is held back until it is complete, so that one that breaks off can be retried; 0 to pass "
        "all on at once.",
    )
    buffer_streams: bool = Field(
        default=False,
        description="Hold responses of unknown length back too, until `response_buffer` is full; "
        "event streams never are.",
    )
    hedge: bool = Field(
        default=False,
        description="When a try takes longer than `per_try_timeout`, do not give it up but try "
        "beside it: the first good response wins.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what would do nothing."""
        yield from super().faults(given)
        if given.get("hedge") is True and seconds_of(given.get("per_try_timeout"), 0.0) == 0:
            yield Unfit("'hedge' does nothing without 'per_try_timeout' beside it", at=("hedge",))
        attempts = given.get("attempts", 1)
        if given.get("hedge") is True and attempts == 0 and type(attempts) is int:
            yield Unfit("'hedge' does nothing beside 'attempts: 0'", at=("hedge",))
        on = given.get("on", ["reset"])
        slow = isinstance(on, list) and not any(word in on for word in _BREAKS)
        if given.get("hedge") is True and slow:
            yield Unfit(
                "'hedge' does nothing without reset, gateway-error or 5xx in 'on'", at=("hedge",)
            )
        if given.get("on") == [] and not given.get("statuses") and not given.get("headers"):
            yield Unfit(
                "nothing would be retried; write 'attempts: 0' to have no retries", at=("on",)
            )


class Mirror(Section):
    """Send a copy to another cluster too, and ignore what that answers.

    `to` alone may be written.
    """

    shorthand: ClassVar[str] = "to"
    references: ClassVar[frozenset[str]] = frozenset({"to"})

    to: str = Field(description="The cluster.")
    percent: float = Field(
        default=100.0, ge=0, le=100, description="How many requests of a hundred are copied."
    )
    max_body: Size = Field(default=65536, description="Requests with a longer body are not copied.")


def _mirror(value: Any) -> Any:
    return {"to": value} if isinstance(value, str) else value


MirrorItem = Annotated[Mirror, BeforeValidator(_mirror, json_schema_input_type=str | Mirror)]
