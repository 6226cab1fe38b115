"""Overload: what is watched, from which values on, and what is done then.

Law: a threshold is an amount in its resource's own unit or a share of what the machine gives; a
share stays a share here, since only the machine that runs the proxy knows the whole of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, PlainSerializer, PlainValidator
from pydantic.json_schema import WithJsonSchema

from meshproxy.config.fields import PathText, PositiveDuration
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, quoted
from meshproxy.config.values import parse_size, seconds_of

__all__ = ["RESOURCES", "Overload", "Shed", "ShortenIdle", "StopAccepting", "Threshold"]

RESOURCES = ("loop_lag", "memory", "file_descriptors", "active_requests")
"""What can be watched; every action has these keys."""

_SHORTEST = 0.01
"""Seconds between two looks: more often they would be what the proxy is busy with."""

_PERCENT = re.compile(r"(\d{1,3}(?:\.\d{1,2})?)\s?%", re.ASCII)


class Threshold(NamedTuple):
    """An amount (bytes, descriptors), or that many percent of the whole."""

    amount: float
    percent: bool = False

    def of(self, whole: float) -> float:
        """The amount, where the whole is ``whole``."""
        return whole * self.amount / 100 if self.percent else self.amount

    @property
    def written(self) -> int | str:
        """As a configuration says it."""
        return f"{self.amount:g}%" if self.percent else int(self.amount)


def _share(value: object) -> Threshold | None:
    """The share that ``90%`` is; None for what is no share. Raises `Unfit` for a bad one."""
    match = _PERCENT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    percent = float(match[1])
    if not 0 < percent <= 100:
        raise Unfit(f"a share is from 1% to 100%, and {quoted(value)} is not")
    return Threshold(percent, True)


def _memory(value: object) -> Threshold:
    if isinstance(value, Threshold):
        return value
    share = _share(value)
    if share is not None:
        return share
    try:
        size = parse_size(value)
    except Unfit as error:
        message = f"a size such as 900MiB or a share such as 90% is expected, not {quoted(value)}"
        raise Unfit(message, error.suggestion) from None
    if not size:
        raise Unfit("this size cannot be 0")
    return Threshold(size)


def _descriptors(value: object) -> Threshold:
    if isinstance(value, Threshold):
        return value
    share = _share(value)
    if share is not None:
        return share
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unfit(
            f"a number such as 50000 or a share such as 90% is expected, not {quoted(value)}"
        )
    if not 1 <= value <= 1 << 31:
        raise Unfit(f"a number of descriptors is from 1 to {1 << 31}, and {quoted(value)} is not")
    return Threshold(value)


_as_written = PlainSerializer(
    lambda value: None if value is None else value.written, when_used="json"
)
_SHARE_SCHEMA = {"type": "string", "pattern": r"^\d{1,3}(\.\d{1,2})? ?%$"}

Memory = Annotated[
    Threshold,
    PlainValidator(_memory),
    _as_written,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\d+(B|KiB|MiB|GiB)?$"},
                {"type": "integer", "minimum": 1},
                _SHARE_SCHEMA,
            ],
            "examples": ["900MiB", "90%"],
        }
    ),
]
Descriptors = Annotated[
    Threshold,
    PlainValidator(_descriptors),
    _as_written,
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, _SHARE_SCHEMA], "examples": [50000, "90%"]}
    ),
]


class Action(Section):
    """From which values on something is done: any of them is enough."""

    loop_lag: PositiveDuration | None = Field(
        default=None,
        description="How late the event loop does what is due: the worst of an interval, averaged "
        "with those before.",
    )
    memory: Memory | None = Field(
        default=None,
        description="Resident memory of the process: a size, or a share of what the control group "
        "or the machine has.",
    )
    file_descriptors: Descriptors | None = Field(
        default=None,
        description="Open descriptors: a number, or a share of the most that the process may open.",
    )
    active_requests: Annotated[int, Field(ge=1, le=100_000_000)] | None = Field(
        default=None,
        description="HTTP requests in flight on all listeners; an upgraded connection is one.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield an action without a threshold: it would never begin."""
        yield from super().faults(given)
        if not any(key in given for key in RESOURCES):
            words = ", ".join(f"'{key}'" for key in RESOURCES)
            yield Unfit(f"this never begins without a threshold: one of {words}")


class Shed(Action):
    """Answer 503 to new requests, and close new TCP connections at once."""

    spare: list[PathText] = Field(
        default=[],
        description="Paths whose requests are served all the same, such as a load balancer's "
        "health check.",
    )


class StopAccepting(Action):
    """Leave new connections waiting in the kernel."""


class ShortenIdle(Action):
    """Close idle connections sooner."""

    to: PositiveDuration = Field(
        default=5.0,
        description="How long a connection may be idle meanwhile, where less is not configured.",
    )


class Overload(Section):
    """What is done before the process has no more to give."""

    interval: PositiveDuration = Field(
        default=0.25, description="How often the resources are looked at."
    )
    shed: Shed | None = Field(
        default=None,
        description="From when on new requests are answered 503 and new TCP connections closed.",
    )
    stop_accepting: StopAccepting | None = Field(
        default=None, description="From when on new connections are left waiting in the kernel."
    )
    shorten_idle: ShortenIdle | None = Field(
        default=None, description="From when on idle connections are closed sooner."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a section that would do nothing."""
        yield from super().faults(given)
        if 0 < seconds_of(given.get("interval"), 1.0) < _SHORTEST:
            yield Unfit("the resources are looked at every 10ms at most", at=("interval",))
        if not any(key in given for key in ("shed", "stop_accepting", "shorten_idle")):
            yield Unfit("one of 'shed', 'stop_accepting' and 'shorten_idle' is needed")
