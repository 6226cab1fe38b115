from filters.tenant import Tenant
from twisted.internet.defer import Deferred

from meshproxy.testing import FakeAnswer, Kit


def made() -> Tenant:
    return Tenant(Tenant.Options(url="http://keys.example/"))


def test_the_tenant_is_told() -> None:
    kit = Kit()
    kit.http.respond(200, b"ann\n")
    driven = kit.drive(made(), headers={b"x-api-key": b"sesame"})
    assert driven.upstream.headers.get(b"x-tenant") == b"ann"
    assert driven.metadata == {"tenant": b"ann"}
    assert kit.http.requests[0][:2] == ("GET", "http://keys.example/sesame")


def test_nobodys_key() -> None:
    kit = Kit()
    kit.http.respond(404)
    assert kit.drive(made(), headers={b"x-api-key": b"other"}).status == 403


def test_while_the_service_thinks() -> None:
    kit = Kit()
    answer: Deferred[FakeAnswer] = Deferred()
    kit.http.answer = answer
    driven = kit.drive(made(), headers={b"x-api-key": b"sesame"})
    assert driven.waiting
    answer.callback(FakeAnswer(200, b"ann"))
    assert driven.status == 200


def test_a_client_that_goes_away_meanwhile() -> None:
    kit = Kit()
    kit.http.answer = None  # it never answers
    driven = kit.drive(made(), headers={b"x-api-key": b"sesame"})
    driven.disconnect()
    assert kit.http.cancelled == 1


def test_a_service_that_is_not_there() -> None:
    kit = Kit()
    kit.http.answer = ConnectionRefusedError()
    driven = kit.drive(made(), headers={b"x-api-key": b"sesame"})
    assert (driven.status, driven.details) == (500, b"filter_error[tenant]")
