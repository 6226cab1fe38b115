"""The public test kit."""

from __future__ import annotations

from typing import Any

import pytest
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.interfaces import IContextFilter, IFilterService, IRequestFilter
from meshproxy.testing import Kit, drive
from tests.http.filters import Made


@implementer(IRequestFilter, IContextFilter, IFilterService)
class Full:
    """Asks, counts, sleeps, shows; starts and stops."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def attach(self, context: Any) -> None:
        """Keep the context."""
        self.context = context
        self.seen = context.counter("seen", "Seen", how="well")
        context.show(lambda: {"seen": self.seen.value})
        self.calls.append("attach")

    def start(self) -> None:
        """Note it."""
        self.calls.append("start")

    def stop(self) -> None:
        """Note it."""
        self.calls.append("stop")

    async def request(self, exchange: Any) -> Response | None:
        """Ask and sleep."""
        self.seen.inc()
        answer = await self.context.http.get("http://who.example/")
        await self.context.sleep(2.0)
        self.context.log("asked")
        body = await answer.content()
        return None if answer.code == 200 else Response(answer.code, body)


def test_three_lines() -> None:
    """A request, an endpoint's answer, what the client got."""
    driven = drive(Made(), target=b"/a", headers={b"x-a": b"1"}, response=Response(201, b"made"))
    assert (driven.status, driven.body, driven.finished) == (201, b"made", True)
    assert (driven.upstream.target, driven.upstream.headers.get(b"x-a")) == (b"/a", b"1")


def test_a_filter_is_attached_and_started_once() -> None:
    """Whatever it is driven through; its clock is the kit's."""
    kit = Kit(wall=1_000_000.0)
    full = Full()
    first = kit.drive(full)
    second = kit.drive(full)
    assert full.calls == ["attach", "start"]
    assert first.waiting
    assert second.waiting
    assert full.context.time() == 1_000_000.0
    kit.advance(2.5)
    assert (first.status, second.status) == (200, 200)
    assert full.context.time() == pytest.approx(1_000_002.5)
    assert kit.counters["seen{how=well}"] == 2
    assert kit.shown["full"]() == {"seen": 2}
    assert kit.log == ["asked", "asked"]
    assert [request[:2] for request in kit.http.requests] == [("GET", "http://who.example/")] * 2
    kit.stop(full)
    assert full.calls[-1] == "stop"


def test_an_endpoint_that_answers_by_what_it_got() -> None:
    """``response`` may be a function."""
    driven = drive(
        Made(), method=b"POST", body=b"abc", response=lambda sent: Response(200, sent.body * 2)
    )
    assert driven.body == b"abcabc"


def test_an_upload_and_a_download_in_pieces() -> None:
    """``body=None`` and ``response=None`` leave both to the test."""
    driven = drive(Made(), method=b"POST", body=None, response=None)
    driven.send(b"a")
    assert not driven.upstream.complete
    driven.end({b"x-t": b"1"})
    assert driven.upstream.complete
    assert driven.upstream.trailers.get(b"x-t") == b"1"
    driven.answer(200, {}, b"x", end=False)
    driven.answer_data(b"y")
    assert driven.pieces == [b"x", b"y"]
    driven.answer_end(b"z")
    assert (driven.body, driven.finished) == (b"xyz", True)


def test_two_filters_of_one_class_count_apart() -> None:
    """Each has a label of its own; the short names add up."""
    kit = Kit()
    one, two = Full(), Full()
    kit.drive(one, two)
    kit.advance(2.5)
    kit.advance(2.5)
    assert {one.context.name, two.context.name} == {"full", "full_"}
    assert kit.counters["seen{how=well}"] == 2
