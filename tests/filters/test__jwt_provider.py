"""A provider whose keys come by HTTP, in the filter that waits for them."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from meshproxy.filters.jwt import Jwt
from meshproxy.testing import Driven, Kit
from meshproxy.testing import FakeAnswer as Answer
from tests.filters.tokens import ISSUER, SECRET, jwk, jwks, token


class Remote:
    """A filter with a remote provider; answers are given by the test."""

    def __init__(self, **provider: Any) -> None:
        self.kit = Kit()
        self.answers: list[Deferred[Any]] = []
        self.kit.http.answer = self._asked
        held = {"issuer": ISSUER, "jwks_url": "https://keys.example/jwks", **provider}
        self.filter = Jwt(Jwt.Options.model_validate({"providers": {"p": held}}))

    def _asked(self, *_: Any) -> Deferred[Any]:
        self.answers.append(Deferred())
        return self.answers[-1]

    def give(self, *keys: dict[str, Any], status: int = 200) -> None:
        """The service answers."""
        self.answers[-1].callback(Answer(status, json.dumps(jwks(*keys)).encode()))

    def send(self, text: bytes) -> Driven:
        """A request with this token."""
        headers = {b"authorization": b"Bearer " + text}
        return self.kit.drive(self.filter, headers=headers)


def test_requests_wait_for_the_first_keys() -> None:
    """What comes before the first answer waits for it, and is judged then."""
    remote = Remote()
    good, bad = remote.send(token()), remote.send(token(signed_by="rsa2"))
    assert good.waiting
    assert bad.waiting
    remote.give(jwk())
    assert (good.status, bad.status) == (200, 401)
    assert good.metadata["jwt.sub"] == "ann"
    assert len(remote.answers) == 1


def test_before_the_first_success() -> None:
    """503, or 401 where that is written; at once while the service was asked just now."""
    for options, status in (({}, 503), ({"unavailable": 401}, 401)):
        remote = Remote(**options)
        driven = remote.send(token())
        remote.give(status=500)
        assert (driven.status, driven.details) == (status, b"jwt_unavailable")
        assert remote.send(token()).status == status
        assert remote.kit.counters["key_failures{provider=p}"] == 1
        assert remote.kit.log == ["no keys of 'p' by HTTP: status 500"]


def test_an_unknown_key_is_asked_for_once() -> None:
    """A new key is found when the first token with it comes; others do not ask again."""
    remote = Remote()
    remote.send(token())
    remote.give(jwk())
    remote.kit.clock.advance(31)
    driven = remote.send(token(signed_by="rsa2", kid="k2"))
    assert driven.waiting
    remote.give(jwk(), jwk("rsa2", "k2"))
    assert driven.status == 200
    assert remote.send(token(kid="k3")).details == b"jwt_unknown_key"
    assert len(remote.answers) == 2


def test_algorithms_that_are_not_taken_ask_nobody() -> None:
    """`none` and HS256 make no question; a published secret is none."""
    remote = Remote()
    remote.send(token())
    remote.give(jwk(), jwk("secret", "s"))
    remote.kit.clock.advance(31)
    for text in (
        token(header={"alg": "none"}, alg="none"),
        token(signed_by=SECRET, alg="HS256", kid="s"),
    ):
        assert remote.send(text).details == b"jwt_algorithm"
    assert len(remote.answers) == 1


def test_a_key_that_is_withdrawn() -> None:
    """Tokens of a key that the service took away are refused, also those remembered."""
    remote = Remote(refresh="60s")
    driven = remote.send(token())
    remote.give(jwk())
    assert driven.status == 200
    assert remote.send(token()).status == 200
    remote.kit.clock.advance(54)
    remote.give(jwk("rsa2", "k2"))
    assert remote.send(token()).details == b"jwt_unknown_key"


def test_a_client_that_goes() -> None:
    """One that waits and goes is forgotten; the others get their answer."""
    remote = Remote()
    one, two = remote.send(token()), remote.send(token())
    one.disconnect()
    remote.give(jwk())
    assert (one.status, two.status) == (0, 200)
    remote.kit.stop(remote.filter)
    assert remote.kit.shown["jwt"]()[0]["keys"] == 1
