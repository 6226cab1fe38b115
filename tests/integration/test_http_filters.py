"""
Filters in the running proxy: bodies through them, and what those that go wrong cost: one exchange.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import HttpUpstream, Proxy, Received
from tests.integration.wire import Client, Response, eventually, log_lines, resident

PLUGINS = Path(__file__).parent / "plugins"
MIB = 1 << 20
SIZE = 10 * MIB

CONFIG = f"""
plugins: [{PLUGINS}]
listeners:
  web:
    listen: '127.0.0.1:$web'
    http:
      access_log: {{ path: access.log, format: json }}
      filters:
        - trouble
      routes:
        - match: {{ prefix: /flip }}
          filters: [flip]
          to: site
          timeout: 0
        - match: {{ prefix: /both }}
          filters: [flip, slow, {{ flip: {{}}, as: flip again }}]
          to: site
          timeout: 0
        - match: {{ prefix: /short }}
          to: site
          timeout: 500ms
        - match: {{ prefix: /off }}
          filters: [{{ trouble: false }}]
          to: site
        - to: site
clusters:
  site: {{ endpoints: ['127.0.0.1:$site'] }}
"""


def _answer(request: Received) -> bytes:
    body = request.body
    head = b"HTTP/1.1 200 OK\r\nx-sum: %b\r\n" % hashlib.sha256(body).hexdigest().encode()
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """The proxy with these filters, before an upstream that sends back what it got."""
    text = CONFIG.replace("flip again", "flip_again")
    with HttpUpstream(_answer) as upstream, Proxy(text, ports={"site": upstream.port}) as running:
        yield running


def number(proxy: Proxy, name: str) -> float:
    """One of the proxy's numbers."""
    text = proxy.get("admin", "/metrics").body.decode()
    found = re.search(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def _told(proxy: Proxy, target: str, what: str) -> Response:
    with Client.to(proxy) as client:
        client.send(f"GET {target} HTTP/1.1\r\nhost: a\r\nx-do: {what}\r\n\r\n".encode())
        return client.response()


def settled(proxy: Proxy) -> None:
    """No exchange is held by a filter, and none is in flight."""
    eventually(lambda: number(proxy, "meshproxy_filter_trouble_held") == 0, "exchanges to end")
    eventually(lambda: number(proxy, "meshproxy_listener_requests_active") == 0, "requests to end")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_ten_mebibytes_through_filters(proxy: Proxy, framing: str) -> None:
    """Every byte arrives changed twice over, both ways, in step, without being gathered."""
    payload = os.urandom(SIZE)
    before = resident(proxy)
    with Client.to(proxy) as client:
        for _ in range(2):
            head = b"POST /both HTTP/1.1\r\nhost: a\r\n"
            if framing == "length":
                client.send(head + b"content-length: %d\r\n\r\n" % SIZE)
                client.send(payload)
            else:
                client.send(head + b"transfer-encoding: chunked\r\n\r\n")
                for start in range(0, SIZE, 50_000):
                    part = payload[start : start + 50_000]
                    client.send(b"%x\r\n%b\r\n" % (len(part), part))
                client.send(b"0\r\n\r\n")
            answer = client.response()
            assert answer.status == 200
            assert answer.get("x-sum") == hashlib.sha256(payload).hexdigest()
            # flip, slow (two bytes more), flip: in reverse, the two bytes are flipped once
            assert answer.body[:SIZE] == payload
            assert answer.body[SIZE:] == bytes(byte ^ 0x55 for byte in b"\r\n")
    assert resident(proxy) - before < 8 * MIB
    settled(proxy)


def test_a_body_keeps_its_length(proxy: Proxy) -> None:
    """A filter that keeps lengths leaves content-length as it is."""
    with Client.to(proxy) as client:
        client.send(b"POST /flip HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
        answer = client.response()
    flipped = bytes(byte ^ 0x55 for byte in b"abc")
    assert answer.get("x-sum") == hashlib.sha256(flipped).hexdigest()
    assert (answer.body, answer.framing) == (b"abc", "length")


@pytest.mark.parametrize(
    ("what", "status", "body"),
    [
        ("request:raise", 500, b"internal error"),
        ("response:raise", 500, b"internal error"),
        ("request:refuse", 403, b"refused"),
        ("response:refuse", 403, b"refused"),
        ("request:twice", 403, b"first"),
        ("response:twice", 403, b"first"),
        ("request:wrong", 500, b"internal error"),
        ("response:wrong", 500, b"internal error"),
    ],
)
def test_what_goes_wrong_costs_one_exchange(
    proxy: Proxy, what: str, status: int, body: bytes
) -> None:
    """The client is answered, and its connection goes on with the next request."""
    with Client.to(proxy) as client:
        for _ in range(3):
            client.send(f"GET / HTTP/1.1\r\nhost: a\r\nx-do: {what}\r\n\r\n".encode())
            answer = client.response()
            assert (answer.status, answer.body) == (status, body)
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            assert client.response().status == 200
    settled(proxy)


@pytest.mark.parametrize("phase", ["request", "response"])
def test_one_that_hangs_is_ended_by_the_routes_time(proxy: Proxy, phase: str) -> None:
    """A 504 whose access record names the filter; what it waited for is cancelled."""
    before = number(proxy, "meshproxy_filter_trouble_cancelled_total")
    answer = _told(proxy, "/short", f"{phase}:hang")
    assert answer.status == 504
    assert number(proxy, "meshproxy_filter_trouble_cancelled_total") == before + 1
    records = eventually(
        lambda: [r for r in log_lines(proxy) if r["details"] == "filter_timeout[trouble]"],
        "the access record",
    )
    assert records[-1]["status"] == 504
    settled(proxy)


@pytest.mark.parametrize("phase", ["request", "response"])
def test_a_client_that_goes_while_a_filter_hangs(proxy: Proxy, phase: str) -> None:
    """What is waited for is cancelled, and nothing is kept of the exchange."""
    before = number(proxy, "meshproxy_filter_trouble_cancelled_total")
    clients = [Client.to(proxy) for _ in range(20)]
    for client in clients:
        client.send(f"GET / HTTP/1.1\r\nhost: a\r\nx-do: {phase}:hang\r\n\r\n".encode())
    eventually(lambda: number(proxy, "meshproxy_filter_trouble_hanging") == 20, "all to hang")
    for client in clients:
        client.close()
    settled(proxy)
    assert number(proxy, "meshproxy_filter_trouble_cancelled_total") == before + 20


def test_reading_a_whole_upload(proxy: Proxy) -> None:
    """A filter gets ten mebibytes whole; over its bound, the client gets a 413."""
    payload = os.urandom(SIZE)
    with Client.to(proxy) as client:
        head = b"POST / HTTP/1.1\r\nhost: a\r\nx-do: request:read\r\ncontent-length: %d\r\n\r\n"
        client.send(head % SIZE)
        client.send(payload)
        answer = client.response()
        assert answer.body == hashlib.sha256(payload).hexdigest().encode()
        client.send(head % ((1 << 24) + 1))
        assert client.response().status == 413


def test_an_expectation_is_met_when_somebody_reads(proxy: Proxy) -> None:
    """A filter that reads the body lets the client send it."""
    with Client.to(proxy) as client:
        client.send(
            b"POST / HTTP/1.1\r\nhost: a\r\nx-do: request:read\r\nexpect: 100-continue\r\n"
            b"content-length: 3\r\n\r\n"
        )
        assert client.take(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"abc")
        assert client.response().body == hashlib.sha256(b"abc").hexdigest().encode()


def test_refused_before_the_upload(proxy: Proxy) -> None:
    """A client that waits for leave gets the refusal in its place, and sends nothing."""
    with Client.to(proxy) as client:
        client.send(
            b"POST / HTTP/1.1\r\nhost: a\r\nx-do: request:refuse\r\nexpect: 100-continue\r\n"
            b"content-length: 3000000\r\n\r\n"
        )
        answer = client.response()
    assert (answer.status, answer.body) == (403, b"refused")
    settled(proxy)


def test_pipelined_requests_wait_for_their_turn(proxy: Proxy) -> None:
    """A filter that waits holds up the requests behind it on the connection, in order."""
    with Client.to(proxy) as client:
        slow = b"POST /both HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n%d"
        client.send(b"".join(slow % number for number in range(5)))
        for number_ in range(5):
            assert client.response().body[:1] == b"%d" % number_


def test_switched_off_on_a_route(proxy: Proxy) -> None:
    """A route without the filter does not know it."""
    answer = _told(proxy, "/off", "request:raise")
    assert answer.status == 200


def test_errors_are_counted_and_logged_sparingly(proxy: Proxy) -> None:
    """Fifty defects are fifty errors, and at most a few tracebacks."""
    before = number(proxy, "meshproxy_filter_errors_total")
    logged = proxy.stdout.count("ZeroDivisionError: a defect")
    with Client.to(proxy) as client:
        for _ in range(50):
            client.send(b"GET / HTTP/1.1\r\nhost: a\r\nx-do: request:raise\r\n\r\n")
            assert client.response().status == 500
    assert number(proxy, "meshproxy_filter_errors_total") >= before + 50
    assert proxy.stdout.count("ZeroDivisionError: a defect") - logged < 25
