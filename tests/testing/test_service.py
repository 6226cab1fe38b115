"""The HTTP service that is not there."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from meshproxy.testing import FakeAnswer, Kit
from tests.testing.test_kit import Full


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


def test_a_body_may_be_delivered() -> None:
    """To a protocol, at once or when the test says; who closes its connection is seen."""
    from twisted.internet.protocol import Protocol

    class Keep(Protocol):
        got = b""
        ended = False

        def dataReceived(self, data: bytes) -> None:
            self.got += data

        def connectionLost(self, reason: Any = None) -> None:
            self.ended = True

    whole, later = Keep(), Keep()
    FakeAnswer(200, b"abc").deliverBody(whole)
    assert (whole.got, whole.ended) == (b"abc", True)
    answer = FakeAnswer(200, b"abc", end=False)
    answer.deliverBody(later)
    assert not later.ended
    assert not answer.given_up()
    answer.transport.loseConnection()
    assert answer.given_up()
    answer.finish(ConnectionResetError())
    assert later.ended
