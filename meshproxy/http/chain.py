"""
A chain of filters, compiled: what every exchange of a route passes.

The law it keeps:

- What each filter provides was asked once, when the chain was made; an exchange calls bound
  methods, and only those that are there. A chain in which nobody wants to wait, to answer or to
  see a body makes no object for an exchange.
- Requests pass it in the order of the configuration, responses in reverse, as far as the request
  had come: what a filter answered is seen by those before it only.
- Whatever a filter does wrong ends in :mod:`meshproxy.http.passage`, and costs one exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from meshproxy import interfaces
from meshproxy.http.inflow import Inflow
from meshproxy.http.outcome import FILTERED, OVER, ROUTING
from meshproxy.http.outflow import Outflow
from meshproxy.net.flow import drop

if TYPE_CHECKING:
    from zope.interface import Interface

    from meshproxy.config import FilterItem
    from meshproxy.http.exchange import Exchange
    from meshproxy.observe.fitted import Fitted

Fit = Callable[[Sequence["FilterItem"], tuple[str | int, ...]], list["Fitted"]]

#: Chains made for requests that changed their route in the middle of one, kept for the next.
MERGED = 1024


class Chain:
    """
    The filters ``fitted``, in order. Positions count from 0 in that order.

    ``request_steps`` and the like hold a bound method for each position, or None.
    """

    __slots__ = (
        "_merged",
        "_requests",
        "_responses",
        "_responses_before",
        "changing_requests",
        "changing_responses",
        "fitted",
        "observers",
        "positions",
        "request_bodies",
        "request_mask",
        "request_steps",
        "request_trailers",
        "response_bodies",
        "response_mask",
        "response_steps",
        "response_trailers",
    )

    def __init__(self, fitted: Sequence[Fitted]) -> None:
        self.fitted = tuple(fitted)
        self.positions = {id(held.filter): at for at, held in enumerate(fitted)}

        def methods(interface: type[Interface], name: str) -> tuple[Any, ...]:
            return tuple(
                getattr(held.filter, name) if interface.providedBy(held.filter) else None
                for held in fitted
            )

        self.request_steps = methods(interfaces.IRequestFilter, "request")
        self.response_steps = methods(interfaces.IResponseFilter, "response")
        self.request_bodies = methods(interfaces.IRequestBodyFilter, "request_data")
        self.response_bodies = methods(interfaces.IResponseBodyFilter, "response_data")
        self.request_trailers = methods(interfaces.IRequestTrailersFilter, "request_trailers")
        self.response_trailers = methods(interfaces.IResponseTrailersFilter, "response_trailers")
        self._requests = _present(self.request_steps)
        self._responses = tuple(reversed(_present(self.response_steps)))
        self._responses_before = [
            tuple(step for step in self._responses if step[0] < position)
            for position in range(len(fitted) + 1)
        ]
        self.request_mask = _mask(self.request_bodies) | _mask(self.request_trailers)
        self.response_mask = _mask(self.response_bodies) | _mask(self.response_trailers)
        keeping = [getattr(held.filter, "keeps_length", False) is True for held in fitted]
        #: Those that may give a body another length.
        self.changing_requests = _mask(
            [
                None if keeps else body
                for keeps, body in zip(keeping, self.request_bodies, strict=True)
            ]
        )
        self.changing_responses = _mask(
            [
                None if keeps else body
                for keeps, body in zip(keeping, self.response_bodies, strict=True)
            ]
        )
        self.observers = tuple(
            (held, held.filter.finished)
            for held in fitted
            if interfaces.IExchangeObserver.providedBy(held.filter)
        )
        self._merged: dict[tuple[int, int], tuple[Chain, Chain]] = {}

    # A request.

    def begin(self, exchange: Exchange, data: bytes, end: bool) -> bool:
        """
        The request's head passes the chain, with the first of its body.

        Returns whether somebody took the exchange over; else it goes on as it is.
        """
        position = 0
        outcome = None
        try:
            for position, step in self._requests:  # noqa: B007
                outcome = step(exchange)
                if outcome is not None or exchange.state:
                    break
        except Exception:
            if exchange.state == OVER:
                self.fitted[position].failed()
                return True
            Inflow(exchange, self, position, data, end).failed(position, None)
            return True
        if outcome is not None or exchange.state:
            if exchange.state == OVER:  # cut
                drop(outcome)
                return True
            exchange.state = ROUTING
            Inflow(exchange, self, position, data, end).head_done(position, outcome)
            return True
        if self.request_mask and (data or not end):
            filtering = exchange.filtering
            if filtering is None or self.request_mask & ~filtering.skipped_requests:
                Inflow(exchange, self, len(self.fitted), data, end).pass_body()
                return True
        return False

    # A response.

    def answering(self, exchange: Exchange, length: int, data: bytes, end: bool) -> bool:
        """
        The response's head, which the exchange holds, passes the chain in reverse.

        Returns whether somebody took the response over; else it goes to the client as it is.
        """
        filtering = exchange.filtering
        passed = len(self.fitted)
        steps = self._responses
        if filtering is not None:
            filtering.outflow = None  # of a response that this one takes the place of
            if filtering.passed >= 0:
                passed = filtering.passed
                steps = self._responses_before[passed]
        exchange.state = FILTERED
        position = passed
        outcome = None
        try:
            for position, step in steps:  # noqa: B007
                outcome = step(exchange)
                if outcome is not None or exchange.state != FILTERED:
                    break
        except Exception:
            if exchange.state == OVER:
                self.fitted[position].failed()
                return True
            Outflow(exchange, self, position, length, data, end).failed(
                len(self.fitted) - 1 - position, None
            )
            return True
        if outcome is not None or exchange.state != FILTERED:
            if exchange.state == OVER:  # cut
                drop(outcome)
                return True
            exchange.state = FILTERED
            Outflow(exchange, self, position, length, data, end).head_done(position, outcome)
            return True
        filtering = exchange.filtering
        mask = self.response_mask & ((1 << passed) - 1)
        if filtering is not None:
            mask &= ~filtering.skipped_responses
        if not mask or exchange.status == 101:
            return False
        if exchange.method == b"HEAD":
            if mask & self.changing_responses:
                # What GET would have said, whose length nobody knows.
                exchange.response_headers.drop(b"content-length")  # type: ignore[union-attr]
            return False
        # A body that turned out empty has an end all the same, where its length was not told.
        if data or not end or (length < 0 and exchange.status not in (204, 304)):
            Outflow(exchange, self, passed, length, data, end).pass_body()
            return True
        return False

    def finished(self, exchange: Exchange) -> None:
        """The exchange is over."""
        for held, finished in self.observers:
            try:
                finished(exchange)
            except Exception:
                held.failed()

    # A route that changed.

    def merged(self, position: int, other: Chain) -> Chain:
        """
        This chain as far as ``position`` (which has run), and what ``other`` has besides.
        """
        key = (position, id(other))
        held = self._merged.get(key)
        if held is None:
            ran = self.fitted[: position + 1]
            labels = {fitted.label for fitted in ran}
            rest = [fitted for fitted in other.fitted if fitted.label not in labels]
            if len(self._merged) >= MERGED:
                self._merged.clear()
            # The other is kept with it: as long as it lives nobody else has its id.
            held = self._merged[key] = (Chain([*ran, *rest]), other)
        return held[0]


def _present(steps: Sequence[Any]) -> tuple[tuple[int, Any], ...]:
    return tuple((at, step) for at, step in enumerate(steps) if step is not None)


def _mask(steps: Sequence[Any]) -> int:
    """A bit for each position that has something."""
    return sum(1 << at for at, step in enumerate(steps) if step is not None)


def inherit(inherited: Sequence[FilterItem], own: Sequence[FilterItem]) -> list[FilterItem]:
    """
    The items of an inner place (a host, a route): one with the label of an inherited one takes
    its place, or switches it off; the others come behind.
    """
    items = list(inherited)
    for item in own:
        at = next((n for n, held in enumerate(items) if held.label == item.label), None)
        if item.off:
            if at is not None:
                del items[at]
        elif at is None:
            items.append(item)
        else:
            items[at] = item
    return items


class Chains:
    """Makes the chains of one listener: the same filters are the same chain."""

    __slots__ = ("_chains", "_fit", "_fitted")

    def __init__(self, fit: Fit | None) -> None:
        self._fit = fit
        self._fitted: dict[int, Fitted] = {}
        self._chains: dict[tuple[int, ...], Chain] = {}

    def prepare(self, items: Sequence[FilterItem], path: tuple[str | int, ...]) -> None:
        """Make the filters that are written at ``path``. Raises what ``fit`` raises."""
        made = [item for item in items if not item.off]
        if not made:
            return
        if self._fit is None:
            raise ValueError("there are filters, and nobody to make them")
        for item, fitted in zip(made, self._fit(items, path), strict=True):
            self._fitted[id(item)] = fitted

    def chain(self, items: Sequence[FilterItem]) -> Chain | None:
        """The chain of these items, all prepared; None for none."""
        if not items:
            return None
        key = tuple(id(item) for item in items)
        if key not in self._chains:
            self._chains[key] = Chain([self._fitted[id(item)] for item in items])
        return self._chains[key]


NO_FILTERS = Chain(())
