"""Filters of every kind and with options of every sort, that do little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, Field
from zope.interface import implementer

from meshproxy import api
from meshproxy.interfaces import (
    IConnectionFilter,
    IConnectionServer,
    IContextFilter,
    IDatagramFilter,
    IFilterService,
    IListenerFilter,
    IQueryFilter,
    IRequestFilter,
)

#: What the services below did, in order.
EVENTS: list[str] = []


@implementer(IRequestFilter, IContextFilter)
class Limit:
    """Has options with everything that a section can have."""

    class Rule(api.Options):
        """When it holds."""

        path: api.PathText = Field(description="The path.")
        value: api.StringMatch | None = Field(default=None, description="A value.")

    class Options(api.Options):
        """Requests or bytes."""

        exactly_one: ClassVar[tuple[str, ...]] = ("requests", "size")
        elsewhere: ClassVar[Mapping[str, str]] = {"rate": "'requests'"}

        requests: int | None = Field(default=None, ge=1, description="How many.")
        size: api.Size | None = Field(default=None, description="How large.")
        per: api.PositiveDuration = Field(default=1.0, description="In this time.")
        keys: list[str] = Field(default=[], description="Secrets.")
        rules: list[Limit.Rule] = Field(default=[], description="Where.")

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[api.Unfit]:
            """Yield a size beside a key."""
            yield from super().faults(given)
            if "size" in given and given.get("keys"):
                yield api.Unfit("'keys' does nothing beside 'size'", at=("keys",))

    def __init__(self, options: Options) -> None:
        self.options = options

    def attach(self, context: Any) -> None:
        """Refuse a number that no schema knows of."""
        if self.options.requests == 13:
            raise ValueError("13 brings bad luck")
        self.seen = context.counter("seen", "Requests seen")
        context.show(lambda: {"seen": self.seen.value})

    def request(self, exchange: Any) -> None:
        """Count."""
        self.seen.inc()


Limit.Options.model_rebuild()


@implementer(IRequestFilter)
class Short:
    """Takes its one option alone."""

    class Options(api.Options):
        """A path."""

        shorthand: ClassVar[str] = "path"

        path: api.PathText = Field(default="/", description="The path.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def request(self, exchange: Any) -> None:
        """Do nothing."""


@implementer(IRequestFilter)
class Loose:
    """Has options that are a plain model."""

    class Options(BaseModel):
        """Not a section."""

        count: int = Field(description="A number.")
        word: str = Field(default="x", pattern="^x", description="A word.")

    def __init__(self, options: Options) -> None:
        if options.count == 13:
            raise ValueError("13 brings bad luck")

    def request(self, exchange: Any) -> None:
        """Do nothing."""


@implementer(IRequestFilter)
class Bare:
    """Has no options."""

    def request(self, exchange: Any) -> None:
        """Do nothing."""


@implementer(IRequestFilter)
class Broken:  # type: ignore[misc]
    """Promises what it does not have."""


@implementer(IRequestFilter, IFilterService)
class Serviced:
    """Says what is done with it; ``word`` "bad" does not start."""

    class Options(api.Options):
        """A word."""

        word: str = Field(default="a", description="What it says.")

    def __init__(self, options: Options) -> None:
        self.word = options.word

    def start(self) -> None:
        """Start, or not."""
        if self.word == "bad":
            raise OSError("no such luck")
        EVENTS.append(f"start {self.word}")

    def stop(self) -> None:
        """Stop."""
        EVENTS.append(f"stop {self.word}")

    def request(self, exchange: Any) -> None:
        """Do nothing."""


@implementer(IConnectionServer)
class Serve:
    """Serves connections itself."""

    def serve(self, connection: Any) -> None:
        """Do nothing."""

    def serve_data(self, connection: Any, data: bytes, end: bool) -> None:
        """Do nothing."""


@implementer(IListenerFilter, IConnectionFilter)
class Judge:
    """Judges connections, wherever."""

    def connected(self, connection: Any) -> None:
        """Do nothing."""

    accepted = connected


@implementer(IDatagramFilter)
class Datagram:  # type: ignore[misc]
    """For a listener that nobody has yet."""


@implementer(IQueryFilter)
class Query:  # type: ignore[misc]
    """For another."""


def _plugin(name: str, target: type | str) -> api.FilterPlugin:
    return api.FilterPlugin(f"t_{name}", f"Tests {name}.", target)


limit = _plugin("limit", Limit)
short = _plugin("short", Short)
loose = _plugin("loose", Loose)
bare = _plugin("bare", Bare)
broken = _plugin("broken", Broken)
serviced = _plugin("serviced", Serviced)
serve = _plugin("serve", Serve)
judge = _plugin("judge", Judge)
datagram = _plugin("datagram", Datagram)
query = _plugin("query", Query)
missing = _plugin("missing", "no_such_package_anywhere.module:Filter")
either_http = _plugin("either", Bare)
either_tcp = _plugin("either", Judge)
