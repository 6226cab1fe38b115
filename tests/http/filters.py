"""Filters of a few lines, for the tests of the chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from zope.interface import alsoProvides, implementer

from meshproxy import interfaces
from meshproxy.http.chain import Chain
from meshproxy.interfaces import IExchangeObserver, IRequestFilter, IResponseFilter
from meshproxy.observe.fitted import Fitted

if TYPE_CHECKING:
    from tests.http.world import World

_METHODS = {
    "request": interfaces.IRequestFilter,
    "request_data": interfaces.IRequestBodyFilter,
    "request_trailers": interfaces.IRequestTrailersFilter,
    "response": interfaces.IResponseFilter,
    "response_data": interfaces.IResponseBodyFilter,
    "response_trailers": interfaces.IResponseTrailersFilter,
    "finished": interfaces.IExchangeObserver,
}


class Made:
    """A filter of the functions that it is given, by the names of the interfaces' methods."""

    def __init__(self, keeps_length: bool = False, **methods: Callable[..., Any]) -> None:
        self.keeps_length = keeps_length
        for name, method in methods.items():
            setattr(self, name, method)
            alsoProvides(self, _METHODS[name])


@implementer(IRequestFilter, IResponseFilter, IExchangeObserver)
class Named:
    """Writes down what it is called for."""

    def __init__(self, name: str, calls: list[str], answer: Any = None) -> None:
        self.name = name
        self.calls = calls
        self.answer = answer

    def request(self, exchange: Any) -> Any:
        """Note it, and answer as was said."""
        self.calls.append(f"{self.name} request")
        return self.answer

    def response(self, exchange: Any) -> None:
        """Note it, with the status."""
        self.calls.append(f"{self.name} response {exchange.response.status}")

    def finished(self, exchange: Any) -> None:
        """Note it."""
        self.calls.append(f"{self.name} finished")


def waiter() -> tuple[Made, Deferred[Any]]:
    """A filter whose ``request`` waits for the Deferred."""
    gate: Deferred[Any] = Deferred()
    return Made(request=lambda exchange: gate), gate


def raising(*_: Any) -> Any:
    """What a defect does."""
    raise ZeroDivisionError("a defect")


async def raising_later(*_: Any) -> Any:
    """The same, of a coroutine."""
    raise ZeroDivisionError("a defect")


def fit(world: World, *filters: Any) -> None:
    """Put these filters into every route of a world."""
    names = [f"filter{number}" for number in range(len(filters))]
    chain = Chain(
        [
            Fitted(held, name, "web", world.registry, world.clock.seconds)
            for held, name in zip(filters, names, strict=True)
        ]
    )
    for route in world.listener.routes:
        route.chain = chain
