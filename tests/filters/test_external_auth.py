"""A service that is asked whether requests may pass: its answers, its failures, its limits."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refusal

from meshproxy.api import Response
from meshproxy.filters.cache import Cache
from meshproxy.filters.external_auth import ExternalAuth
from meshproxy.testing import Driven, Kit
from meshproxy.testing import FakeAnswer as Answer

URL = "http://auth.example/check"


def made(**options: Any) -> ExternalAuth:
    """A filter that asks auth.example."""
    return ExternalAuth(ExternalAuth.Options.model_validate({"url": URL, **options}))


def kit_with(answer: Any = None, *, hangs: bool = False) -> Kit:
    """A kit whose service answers like this, 200 unless it is said; or never."""
    kit = Kit()
    kit.http.answer = None if hangs else (lambda *_: Answer(200)) if answer is None else answer
    return kit


def sent(kit: Kit, number: int = -1) -> dict[str, list[bytes]]:
    """The headers of a question."""
    headers = kit.http.requests[number][2]["headers"]
    return {name.decode().lower(): values for name, values in headers.getAllRawHeaders()}


def test_a_request_that_may_pass() -> None:
    """2xx lets it pass; the service was told what nginx and Traefik tell."""
    kit = kit_with()
    driven = kit.drive(
        made(),
        method=b"POST",
        target=b"/a%20b?c=d",
        headers=[
            (b"authorization", b"Bearer x"),
            (b"cookie", b"a=b"),
            (b"cookie", b"c=d"),
            (b"x-secret", b"s"),
            (b"x-forwarded-uri", b"/harmless"),
            (b"x-forwarded-for", b"10.0.0.1"),
        ],
        body=b"body",
    )
    assert driven.status == 200
    assert driven.upstream is not None
    assert driven.upstream.body == b"body"
    method, url, keywords = kit.http.requests[0]
    assert (method, url, keywords["data"], keywords["allow_redirects"]) == ("GET", URL, None, False)
    assert sent(kit) == {
        "authorization": [b"Bearer x"],
        "cookie": [b"a=b", b"c=d"],
        "x-forwarded-method": [b"POST"],
        "x-forwarded-proto": [b"http"],
        "x-forwarded-host": [b"test.example"],
        "x-forwarded-uri": [b"/a%20b?c=d"],
        "x-forwarded-for": [b"192.0.2.1"],
        "x-original-method": [b"POST"],
        "x-original-uri": [b"/a%20b?c=d"],
    }
    assert driven.counters["allowed"] == 1


def test_a_request_that_may_not() -> None:
    """Any other answer is the client's: its status, chosen headers and body."""
    headers = [
        (b"Location", b"https://login.example"),
        (b"Set-Cookie", b"a=1"),
        (b"Set-Cookie", b"b=2"),
        (b"X-Internal", b"secret"),
        (b"Content-Type", b"text/html"),
        (b"Connection", b"close"),
    ]
    driven = kit_with(Answer(302, b"<p>", headers)).drive(made())
    assert (driven.status, driven.body, driven.flags) == (302, b"<p>", b"UAEX")
    assert driven.details == b"ext_authz_denied"
    assert driven.upstream is None
    assert driven.headers.get_all(b"set-cookie") == [b"a=1", b"b=2"]
    assert driven.headers.get(b"location") == b"https://login.example"
    assert driven.headers.get(b"content-type") == b"text/html"
    assert b"x-internal" not in driven.headers
    assert driven.counters["denied"] == 1
    for status in (401, 403, 404, 429, 304):
        assert kit_with(Answer(status, b"no")).drive(made()).status == status


def test_a_refusal_is_bounded() -> None:
    """A body that is longer than the bound is cut, and its connection given up."""
    answer = Answer(403, b"x" * 100, end=False)
    driven = kit_with(answer).drive(made(max_answer=10))
    assert (driven.status, driven.body) == (403, b"x" * 10)
    assert answer.given_up()


@pytest.mark.parametrize("name", [b"x-user", b"X-User", b"x_user"])
def test_headers_for_the_request(name: bytes) -> None:
    """What the service says of a user the upstream gets; a client's own does not come through."""
    held = made(request_headers=["X-User", "x-team"])
    kit = kit_with(Answer(200, b"", [(b"X-User", b"ann"), (b"X-Other", b"o")]))
    driven = kit.drive(held, headers={name: b"root", b"x-team": b"admins"})
    assert driven.upstream is not None
    values = [value for _, value in driven.upstream.headers]
    assert b"root" not in values
    assert b"admins" not in values
    assert driven.upstream.headers.get(b"x-user") == b"ann"
    assert b"x-other" not in driven.upstream.headers


def test_headers_for_the_response() -> None:
    """Chosen headers go to the client; cookies beside the upstream's own."""
    kit = kit_with(Answer(200, b"", [(b"set-cookie", b"s=1"), (b"x-plan", b"gold")]))
    upstream = Response(200, b"", [(b"set-cookie", b"u=1"), (b"x-plan", b"none")])
    driven = kit.drive(made(response_headers=["set-cookie", "x-plan"]), response=upstream)
    assert driven.headers.get_all(b"set-cookie") == [b"u=1", b"s=1"]
    assert driven.headers.get_all(b"x-plan") == [b"gold"]


FAILURES = [
    Refusal(),
    Answer(500),
    Answer(503, b"down"),
    Answer(101),
]


@pytest.mark.parametrize("answer", FAILURES)
def test_a_service_that_fails(answer: Any) -> None:
    """Neither a yes nor a no closes the door, or opens it where that is said."""
    driven = kit_with(answer).drive(made())
    assert (driven.status, driven.flags, driven.details) == (403, b"UAEX", b"ext_authz_error")
    assert driven.upstream is None
    assert kit_with(answer).drive(made(status_on_error=503)).status == 503
    kit = kit_with(answer)
    held = made(fail="open", request_headers=["x-user"])
    driven = kit.drive(held, headers={b"x-user": b"root"})
    assert driven.status == 200
    assert driven.metadata["external_auth"] == "failed_open"
    assert driven.upstream is not None
    assert b"x-user" not in driven.upstream.headers
    assert driven.counters["failures"] == 1


def test_failures_are_told_now_and_then() -> None:
    """A line in ten seconds, however often it fails."""
    kit, held = kit_with(Answer(500)), made()
    for _ in range(3):
        kit.drive(held)
    assert kit.log == ["the service failed: status 500"]
    kit.advance(10.1)
    kit.drive(held)
    assert len(kit.log) == 2


def test_the_timeout() -> None:
    """A service that hangs is given up in time, also in the middle of its answer."""
    kit = kit_with(hangs=True)
    driven = kit.drive(made(timeout="2s"))
    assert driven.waiting
    kit.advance(2.1)
    assert (driven.status, kit.http.cancelled) == (403, 1)
    answer = Answer(200, b"x", end=False)
    kit = kit_with(answer)
    driven = kit.drive(made(timeout="2s"))
    kit.advance(2.1)
    assert driven.status == 403
    assert answer.given_up()


def test_a_client_that_goes() -> None:
    """The question is given up with its request, which is no failure of the service."""
    kit = kit_with(hangs=True)
    driven = kit.drive(made(concurrency=1))
    driven.disconnect()
    assert kit.http.cancelled == 1
    assert "failures" not in kit.counters


def waiting(kit: Kit, held: ExternalAuth, number: int) -> list[Driven]:
    """So many requests."""
    return [kit.drive(held) for _ in range(number)]


@pytest.mark.parametrize("fail", ["closed", "open"])
def test_so_many_at_a_time(fail: str) -> None:
    """Two are asked about, one waits, the fourth is refused: flooding opens no door."""
    answers: list[Deferred[Any]] = []

    def asked(*_: Any) -> Deferred[Any]:
        answers.append(Deferred())
        return answers[-1]

    kit, held = kit_with(asked), made(concurrency=2, queue=1, fail=fail)
    driven = waiting(kit, held, 4)
    assert [one.status for one in driven] == [0, 0, 0, 503]
    assert len(answers) == 2
    assert kit.counters["overflow"] == 1
    driven[0].disconnect()
    assert len(answers) == 3
    for answer in answers[1:]:
        answer.callback(Answer(200))
    assert [one.status for one in driven[1:3]] == [200, 200]


def test_a_body() -> None:
    """With `max_body` the service gets it, and so does the upstream; a longer one is a 413."""
    kit, held = kit_with(), made(method="request", max_body="8B")
    driven = kit.drive(held, method=b"PUT", headers={b"content-type": b"a/b"}, body=b"12345678")
    assert driven.upstream is not None
    assert driven.upstream.body == b"12345678"
    method, _, keywords = kit.http.requests[0]
    assert (method, keywords["data"].getvalue()) == ("PUT", b"12345678")
    assert sent(kit)["content-type"] == [b"a/b"]
    driven = kit.drive(held, method=b"PUT", body=b"123456789")
    assert driven.status == 413
    assert len(kit.http.requests) == 1
    driven = kit.drive(held, method=b"PUT", body=None)
    driven.send(b"1234")
    assert len(kit.http.requests) == 1
    driven.end()
    assert driven.status == 200
    assert kit.http.requests[1][2]["data"].getvalue() == b"1234"


def test_decisions_that_are_kept() -> None:
    """What may pass is not asked about again for a while: by headers, method, host, path, IP."""
    kit = kit_with(lambda *_: Answer(200, b"", [(b"x-user", b"ann")]))
    held = made(cache={"ttl": "10s"}, headers=["authorization"], request_headers=["x-user"])
    base: dict[str, Any] = {"headers": {b"authorization": b"a"}}
    for _ in range(2):
        driven = kit.drive(held, **base)
        assert driven.upstream is not None
        assert driven.upstream.headers.get(b"x-user") == b"ann"
    assert len(kit.http.requests) == 1
    assert kit.counters["cached"] == 1
    others: list[dict[str, Any]] = [
        {"headers": {b"authorization": b"b"}},
        {"headers": [(b"authorization", b"a"), (b"authorization", b"a")]},
        {},
        {**base, "method": b"PUT"},
        {**base, "target": b"/?a"},
        {**base, "authority": b"other.example"},
        {**base, "client": b"192.0.2.9:1"},
    ]
    for number, other in enumerate(others, 2):
        kit.drive(held, **other)
        assert len(kit.http.requests) == number, other
    kit.advance(10.1)
    kit.drive(held, **base)
    assert len(kit.http.requests) == len(others) + 2
    kit.stop(held)


def test_refusals_are_not_kept() -> None:
    """Who may not pass is asked about every time, and so is everybody after a failure."""
    answers = [Answer(401), Answer(500), Answer(200)]
    kit = kit_with(lambda *_: answers.pop(0))
    held = made(cache={"ttl": "10s", "by": [], "headers": []})
    assert [kit.drive(held).status for _ in range(4)] == [401, 403, 200, 200]
    assert answers == []


def test_response_headers_are_kept_with_the_decision() -> None:
    """A kept decision gives the response the same headers."""
    kit = kit_with(Answer(200, b"", [(b"x-plan", b"gold")]))
    held = made(cache={"ttl": "10s"}, response_headers=["x-plan"])
    for _ in range(2):
        assert kit.drive(held).headers.get(b"x-plan") == b"gold"
    assert len(kit.http.requests) == 1


def test_a_no_stays_a_no() -> None:
    """A refusal whose header cannot be sent on refuses all the same, even with ``fail: open``."""
    kit = kit_with(Answer(302, b"", [(b"location", b"/login?next=\x00")]))
    driven = kit.drive(made(fail="open"))
    assert driven.upstream is None
    assert (driven.status, driven.details, driven.flags) == (403, b"ext_authz_denied", b"UAEX")
    assert driven.counters["denied"] == 1


@pytest.mark.parametrize("named", [False, True])
def test_what_comes_back_for_a_user_is_not_shared(named: bool) -> None:
    """Where the service says who it is, a cache behind this filter keeps nothing of it."""
    kit = kit_with(Answer(200, b"", [(b"x-user", b"ann")] if named else []))
    filters = (made(request_headers=["x-user"]), Cache(Cache.Options()))
    fresh = [(b"cache-control", b"max-age=60")]
    kit.drive(*filters, response=Response(200, b"first", fresh))
    second = kit.drive(*filters, response=Response(200, b"second", fresh))
    assert second.body == (b"second" if named else b"first")
