from typing import Any

import pytest
from example_filters.tenant import Tenant
from twisted.internet.defer import Deferred

from meshproxy.testing import FakeAnswer, Kit

SESAME = {b"x-api-key": b"sesame"}


def made(**options: Any) -> Tenant:
    return Tenant(Tenant.Options(url="http://keys.example/", **options))


def test_the_upstream_is_told_whose_it_is() -> None:
    kit = Kit()
    kit.http.respond(200, b"ann\n")
    driven = kit.drive(made(), headers=SESAME)
    assert driven.upstream.headers.get(b"x-tenant") == b"ann"
    assert driven.metadata == {"tenant": b"ann"}
    method, url, keywords = kit.http.requests[0]
    assert (method, url) == ("GET", "http://keys.example/")
    assert keywords["headers"] == {b"x-api-key": [b"sesame"]}


def test_a_client_cannot_say_itself_whose_it_is() -> None:
    kit = Kit()
    kit.http.respond(200, b"ann")
    driven = kit.drive(made(), headers={**SESAME, b"x-tenant": b"root"})
    assert driven.upstream.headers.get_all(b"x-tenant") == [b"ann"]


def test_without_a_key_nobody_is_asked() -> None:
    kit = Kit()
    driven = kit.drive(made())
    assert (driven.status, driven.details) == (401, b"no_key")
    assert driven.upstream is None
    assert kit.http.requests == []


def test_nobodys_key_is_refused() -> None:
    kit = Kit()
    kit.http.respond(404)
    driven = kit.drive(made(), headers=SESAME)
    assert (driven.status, driven.details) == (403, b"unknown_key")
    assert (driven.counters["asked"], driven.counters["refused"]) == (1, 1)


def test_a_blocked_tenant_is_refused() -> None:
    kit = Kit()
    kit.http.respond(200, b"ann")
    assert kit.drive(made(blocked=["ann"]), headers=SESAME).details == b"blocked_tenant"
    assert kit.drive(made(blocked=["bob"]), headers=SESAME).status == 200


def test_an_answer_is_remembered_for_its_time() -> None:
    kit = Kit()
    kit.http.respond(200, b"ann")
    tenant = made(keep="10s")
    for seconds, asked in ((0, 1), (9, 1), (2, 2)):
        kit.advance(seconds)
        assert kit.drive(tenant, headers=SESAME).status == 200
        assert len(kit.http.requests) == asked


def test_no_more_answers_are_remembered_than_that() -> None:
    kit = Kit()
    kit.http.respond(200, b"ann")
    tenant = made(most=2)
    for key in (b"one", b"two", b"three", b"two", b"one"):
        assert kit.drive(tenant, headers={b"x-api-key": key}).status == 200
    asked = [keywords["headers"][b"x-api-key"][0] for _, _, keywords in kit.http.requests]
    assert asked == [b"one", b"two", b"three", b"one"]


def test_while_the_service_thinks_the_request_waits() -> None:
    kit = Kit()
    answer: Deferred[FakeAnswer] = Deferred()
    kit.http.answer = answer
    driven = kit.drive(made(), headers=SESAME)
    assert driven.waiting
    answer.callback(FakeAnswer(200, b"ann"))
    assert driven.status == 200


@pytest.mark.parametrize(
    "answer",
    [
        ConnectionRefusedError(),
        FakeAnswer(500, b""),
        FakeAnswer(200, b""),
        FakeAnswer(200, b"a\nb"),
    ],
)
def test_a_service_that_does_not_answer_well(answer: Any) -> None:
    kit = Kit()
    kit.http.answer = answer
    tenant = made()
    driven = kit.drive(tenant, headers=SESAME)
    assert (driven.status, driven.details) == (503, b"tenant_unknown")
    assert (driven.counters["asked"], driven.counters["failed"]) == (1, 1)
    assert "sesame" not in "".join(kit.log)
    kit.http.respond(200, b"ann")
    assert kit.drive(tenant, headers=SESAME).status == 200  # that was not remembered


def test_a_service_that_never_answers() -> None:
    kit = Kit()
    kit.http.answer = None
    driven = kit.drive(made(timeout="1s"), headers=SESAME)
    kit.advance(1.1)
    assert driven.status == 503
    assert kit.http.cancelled == 1


def test_a_client_that_goes_away_meanwhile() -> None:
    kit = Kit()
    kit.http.answer = None
    driven = kit.drive(made(), headers=SESAME)
    driven.disconnect()
    assert kit.http.cancelled == 1
    assert "failed" not in driven.counters
