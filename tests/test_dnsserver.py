"""The name server of the tests, asked by a client that is not ours."""

from __future__ import annotations

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.dnsserver import HOST, DnsServer, Manner


def ask(server: DnsServer, name: str, kind: str, timeout: float = 10.0) -> dns.message.Message:
    """What the server says, by UDP and then by TCP where it says so."""
    query = dns.message.make_query(name, kind)
    reply, _ = dns.query.udp_with_fallback(query, HOST, timeout, port=server.port)
    return reply


def test_records_come_and_go() -> None:
    """A record is there once it is put, with its TTL, and gone once it is removed."""
    with DnsServer() as names:
        names.put("Api.test.", "A", ["10.0.0.1", "10.0.0.2"], ttl=7)
        (answer,) = ask(names, "api.test", "A").answer
        assert (answer.ttl, sorted(map(str, answer))) == (7, ["10.0.0.1", "10.0.0.2"])
        assert ask(names, "api.test", "AAAA").rcode() == dns.rcode.NOERROR
        names.remove("api.test")
        gone = ask(names, "api.test", "A")
        assert gone.rcode() == dns.rcode.NXDOMAIN
        assert gone.authority[0][0].minimum == 60
        assert (names.count(), names.count("api.test", "AAAA")) == (3, 1)


def test_aliases_are_followed() -> None:
    """The answer holds the whole chain."""
    with DnsServer() as names:
        names.put("a.test", "CNAME", ["b.test."])
        names.put("b.test", "A", ["10.0.0.1"])
        assert len(ask(names, "a.test", "A").answer) == 2


def test_large_answers_need_tcp() -> None:
    """What does not fit into 512 bytes is truncated, and whole by TCP."""
    with DnsServer() as names:
        names.put("many.test", "A", [f"10.0.0.{number}" for number in range(1, 101)])
        assert len(ask(names, "many.test", "A").answer[0]) == 100
        assert [query.transport for query in names.queries] == ["udp", "tcp"]


@pytest.mark.parametrize(
    ("manner", "code"),
    [
        ("nxdomain", dns.rcode.NXDOMAIN),
        ("nodata", dns.rcode.NOERROR),
        ("servfail", dns.rcode.SERVFAIL),
        ("refused", dns.rcode.REFUSED),
        ("empty", dns.rcode.NOERROR),
    ],
)
def test_manners_without_an_answer(manner: Manner, code: dns.rcode.Rcode) -> None:
    """Each with its code and nothing in the answer; other names are answered as before."""
    with DnsServer() as names:
        names.put("a.test", "A", ["10.0.0.1"])
        names.put("b.test", "A", ["10.0.0.1"])
        names.manners["a.test", "A"] = manner
        reply = ask(names, "a.test", "A")
        assert (reply.rcode(), reply.answer) == (code, [])
        assert ask(names, "b.test", "A").answer


@pytest.mark.parametrize("manner", ["stall", "wrong_id", "wrong_question", "garbage", "torn"])
def test_manners_that_no_client_takes(manner: Manner) -> None:
    """A careful client gets nothing out of them."""
    with DnsServer() as names:
        names.put("a.test", "A", ["10.0.0.1"])
        names.manner = manner
        with pytest.raises((dns.exception.DNSException, EOFError)):
            ask(names, "a.test", "A", 0.5)


def test_a_forgery_comes_before_the_answer() -> None:
    """Who does not look at the ID takes the lie."""
    with DnsServer() as names:
        names.put("a.test", "A", ["10.0.0.1"])
        names.manner = "forge"
        query = dns.message.make_query("a.test", "A")
        reply = dns.query.udp(query, HOST, 10.0, port=names.port, ignore_errors=True)
        assert str(reply.answer[0][0]) == "10.0.0.1"


def test_rotation() -> None:
    """The same records, beginning with another each time."""
    with DnsServer() as names:
        names.rotate = True
        names.put("a.test", "A", ["10.0.0.1", "10.0.0.2"])
        first = [str(ask(names, "a.test", "A").answer[0][0]) for _ in range(3)]
        assert first == ["10.0.0.1", "10.0.0.2", "10.0.0.1"]
