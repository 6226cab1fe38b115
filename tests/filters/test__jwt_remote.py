"""Keys that a service publishes: when it is asked, and what its failures do."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refusal

from meshproxy.filters import _jwt_remote
from meshproxy.filters._jwt_keys import ASYMMETRIC, KeySet
from meshproxy.filters._jwt_remote import RemoteKeys
from meshproxy.testing import FakeAnswer as Answer
from meshproxy.testing import FakeHttp, Kit
from tests.filters.tokens import jwk, jwks

BODY = json.dumps(jwks(jwk())).encode()


class Service:
    """Remote keys, a clock, and a service whose next answer the test gives."""

    def __init__(self, **options: Any) -> None:
        self.kit = Kit()
        self.said: list[tuple[bool, str]] = []
        self.http: FakeHttp = self.kit.http
        self.answers: list[Deferred[Any]] = []
        self.http.answer = self._asked
        settings = {"refresh": 600.0, "cooldown": 30.0, "timeout": 5.0, **options}
        self.remote = RemoteKeys(
            "https://keys.example/jwks",
            self.kit._context("jwt", "jwt"),
            allowed=ASYMMETRIC,
            said=lambda good, reason: self.said.append((good, reason)),
            **settings,
        )

    def _asked(self, *_: Any) -> Deferred[Any]:
        self.answers.append(Deferred())
        return self.answers[-1]

    def keys(self) -> KeySet | None:
        """The keys at hand."""
        return self.remote.keys

    @property
    def asked(self) -> int:
        """How often the service was asked."""
        return len(self.http.requests)

    def give(self, body: bytes = BODY, status: int = 200, **headers: str) -> None:
        """It answers the newest question."""
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        pairs = [(name.replace(b"_", b"-"), value) for name, value in pairs]
        self.answers[-1].callback(Answer(status, body, pairs))


def fired(news: Deferred[None] | None) -> bool:
    """Whether there is something to wait for, and it has come."""
    return news is not None and news.called


def test_the_first_answer() -> None:
    """It is asked at the start, and what it says is at hand."""
    service = Service()
    service.remote.start()
    assert service.asked == 1
    assert service.keys() is None
    service.give()
    assert service.keys() is not None
    assert service.said == [(True, "")]
    method, url, keywords = service.http.requests[0]
    assert (method, url, keywords["allow_redirects"]) == ("GET", "https://keys.example/jwks", False)
    service.remote.stop()


def test_all_wait_for_one_answer() -> None:
    """Whoever wants news while one is under way waits for that; one may give up."""
    service = Service()
    service.remote.start()
    waiting = [service.remote.news() for _ in range(3)]
    assert service.asked == 1
    assert waiting[1] is not None
    waiting[1].addErrback(lambda _: None).cancel()
    service.give()
    assert fired(waiting[0])
    assert fired(waiting[2])


def test_no_more_than_once_in_the_cooldown() -> None:
    """Tokens with unknown keys make one question in 30 s, however many come."""
    service = Service()
    service.remote.start()
    service.give()
    assert service.remote.news() is None
    service.kit.clock.advance(30)
    assert service.remote.news() is not None
    assert service.remote.news() is not None
    assert service.asked == 2
    service.give()
    assert service.remote.news() is None
    assert service.asked == 2


def test_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is bounded: the next one is not made to wait."""
    monkeypatch.setattr(_jwt_remote, "_MOST_WAITING", 2)
    service = Service()
    service.remote.start()
    waiting = [service.remote.news() for _ in range(3)]
    assert [one is None for one in waiting] == [False, False, True]


@pytest.mark.parametrize(
    ("header", "again"),
    [
        ("", 540),
        ("max-age=100", 90),
        ("public, Max-Age=100", 90),
        ('max-age="100"', 90),
        ("s-maxage=100", 540),
        ("max-age=0", 30),
        ("max-age=999999999", 77760),
    ],
)
def test_keys_are_got_before_they_are_old(header: str, again: float) -> None:
    """It is asked anew a tenth before the time, not within the cooldown, and once a day."""
    service = Service()
    service.remote.start()
    service.give(cache_control=header)
    service.kit.clock.advance(again - 0.1)
    assert service.asked == 1
    service.kit.clock.advance(0.2)
    assert service.asked == 2


def test_the_same_keys_are_the_same_set() -> None:
    """A set that did not change is the same object, so that what it verified stays known."""
    service = Service()
    service.remote.start()
    service.give()
    first = service.keys()
    service.kit.clock.advance(600)
    service.give()
    assert service.keys() is first
    service.kit.clock.advance(600)
    service.give(json.dumps(jwks(jwk("rsa2"))).encode())
    assert service.keys() is not first


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (BODY, 500, "status 500"),
        (BODY, 302, "status 302"),
        (b"<html>", 200, "JWK set"),
        (b'{"keys": []}', 200, "no key"),
        (json.dumps(jwks(jwk("secret"))).encode(), 200, "no key"),
        (b" " * (600 << 10), 200, "more than"),
    ],
)
def test_failures_change_nothing(body: bytes, status: int, why: str) -> None:
    """The last good keys stay; it is asked again after the cooldown."""
    service = Service()
    service.remote.start()
    service.give()
    good = service.keys()
    service.kit.clock.advance(600)
    service.give(body, status)
    assert service.keys() is good
    assert not service.said[-1][0]
    assert why in service.said[-1][1]
    service.kit.clock.advance(30)
    assert service.asked == 3


def test_no_answer() -> None:
    """A service that hangs is given up; who waits goes on without keys."""
    service = Service()
    service.remote.start()
    news = service.remote.news()
    service.kit.clock.advance(5)
    assert fired(news)
    assert service.said[-1][0] is False
    service.kit.clock.advance(30)
    service.answers[-1].errback(Refusal())
    assert "refused" in service.said[-1][1]


def test_a_body_that_never_ends() -> None:
    """The time is for the body too, and its connection is given up."""
    service = Service()
    service.remote.start()
    answer = Answer(200, b"{", end=False)
    service.answers[-1].callback(answer)
    service.kit.clock.advance(5)
    assert answer.given_up()
    assert service.said[-1][0] is False


def test_stop() -> None:
    """After the stop nothing is under way, nothing is asked, and nobody waits."""
    service = Service()
    service.remote.start()
    news = service.remote.news()
    service.remote.stop()
    assert fired(news)
    assert service.remote.news() is None
    assert service.kit.clock.getDelayedCalls() == []
    service = Service()
    service.remote.start()
    service.give()
    service.remote.stop()
    service.kit.clock.advance(10_000)
    assert service.asked == 1
    assert service.said == [(True, "")]


def test_an_answer_at_once() -> None:
    """A service that answers before the question has returned is as good as another."""
    service = Service()
    service.http.answer = Answer(200, BODY)
    service.remote.start()
    assert service.keys() is not None
    service.kit.clock.advance(40)
    assert fired(service.remote.news())
