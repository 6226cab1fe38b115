"""The public test kit."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.interfaces import IContextFilter, IFilterService, IRequestFilter
from meshproxy.testing import FakeAnswer, Kit, Recorded, drive, recorded
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


@pytest.mark.parametrize("way", ["respond", "answer", "function", "later", "exception", "never"])
def test_the_ways_of_the_fake_service(way: str) -> None:
    """It answers as it is told, fails, or never does, and is told when it is given up."""
    kit = Kit()
    later: Deferred[Any] = Deferred()
    if way == "respond":
        kit.http.respond(403, b"no", {b"a": b"1"})
    else:
        kit.http.answer = {
            "answer": FakeAnswer(403, b"no"),
            "function": lambda method, url, keywords: FakeAnswer(403, method.encode()),
            "later": later,
            "exception": ConnectionRefusedError(),
            "never": None,
        }[way]
    driven = kit.drive(Full())
    if way == "later":
        later.callback(FakeAnswer(403, b"no"))
    kit.advance(3.0)
    if way == "never":
        assert driven.waiting
        driven.disconnect()
        assert kit.http.cancelled == 1
    else:
        assert driven.status == (500 if way == "exception" else 403)


def test_an_answer_has_what_treqs_have() -> None:
    """Status, headers, and the body by each of treq's ways."""
    answer = FakeAnswer(200, b'{"a": 1}', {b"X-A": b"1"})
    got: list[Any] = []
    for made in (answer.content(), answer.json(), answer.text(), answer.collect(got.append)):
        made.addCallback(got.append)
    # collect() hands its piece on at once.
    assert got == [b'{"a": 1}', b'{"a": 1}', {"a": 1}, '{"a": 1}', None]
    assert answer.headers.getRawHeaders("x-a") == ["1"]
    assert (answer.code, answer.length) == (200, 8)


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


def test_what_the_tap_filter_writes_can_be_played(tmp_path: Path) -> None:
    """Request, client and response come from the file."""
    entry = {
        "request": {
            "method": "POST",
            "target": "/a?b",
            "authority": "a.example",
            "headers": [["x-a", "1"], ["content-length", "4"]],
            "body": base64.b64encode(b"body").decode(),
        },
        "response": {"status": 201, "headers": [["etag", "1"]], "body": None},
        "client": "192.0.2.9:1234",
    }
    file = tmp_path / "tap.jsonl"
    file.write_text(json.dumps(entry) + "\n\n" + json.dumps({**entry, "response": None}) + "\n")
    first, second = recorded(file)
    assert second.response is None
    driven = drive(Made(), record=first)
    assert (driven.status, driven.headers.get(b"etag")) == (201, b"1")
    sent = driven.upstream
    assert (sent.method, sent.target, sent.authority) == (b"POST", b"/a?b", b"a.example")
    assert (sent.body, sent.headers.get(b"content-length")) == (b"body", b"4")
    assert driven.exchange.client_ip == b"192.0.2.9"


def test_what_a_browser_recorded_can_be_played(tmp_path: Path) -> None:
    """A HAR file, with its decoded bodies."""
    har = {
        "log": {
            "entries": [
                {
                    "request": {
                        "method": "GET",
                        "url": "https://b.example/x?y#z",
                        "headers": [{"name": ":authority", "value": "b.example"},
                                    {"name": "Accept", "value": "*/*"}],
                    },
                    "response": {
                        "status": 200,
                        "headers": [{"name": "content-encoding", "value": "br"}],
                        "content": {"text": "aGk=", "encoding": "base64"},
                    },
                }
            ]
        }
    }  # fmt: skip
    file = tmp_path / "browser.har"
    file.write_text(json.dumps(har))
    (record,) = recorded(file)
    driven = drive(Made(), record=record)
    assert (driven.body, driven.headers.get(b"content-encoding")) == (b"hi", None)
    assert (driven.upstream.target, driven.upstream.authority) == (b"/x?y", b"b.example")
    assert record.headers == ((b"accept", b"*/*"),)


@pytest.mark.parametrize("text", ['{"a": 1}\n', "[1]\n", "no json\n"])
def test_a_file_of_something_else(tmp_path: Path, text: str) -> None:
    """It is refused, with its name where there is one to tell."""
    file = tmp_path / "other"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"\w"):
        list(recorded(file))


def test_a_record_has_defaults() -> None:
    """One can be made by hand."""
    assert drive(Made(), record=Recorded(target=b"/r")).upstream.target == b"/r"


def test_two_filters_of_one_class_count_apart() -> None:
    """Each has a label of its own; the short names add up."""
    kit = Kit()
    one, two = Full(), Full()
    kit.drive(one, two)
    kit.advance(2.5)
    kit.advance(2.5)
    assert {one.context.name, two.context.name} == {"full", "full_"}
    assert kit.counters["seen{how=well}"] == 2
