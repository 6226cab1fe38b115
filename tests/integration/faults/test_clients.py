"""Clients that misbehave before upstreams that misbehave: nothing is left behind."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable

import pytest

from tests.harness import connect, read_to_end
from tests.integration.faults.mesh import Mesh, slug
from tests.integration.faults.servers import (
    AnyFault,
    ClosesAtRandom,
    Faulty,
    NeverAccepts,
    ResetsInTheBody,
    StallsBeforeTheHead,
    StallsInTheBody,
    honest_body,
)
from tests.integration.faults.traffic import Ask, Clients, run
from tests.integration.wire import Client, eventually, linger_reset

KINDS = (
    AnyFault,
    ClosesAtRandom,
    NeverAccepts,
    ResetsInTheBody,
    StallsBeforeTheHead,
    StallsInTheBody,
)


def _leaves_at_once(ask: Ask, number: int) -> None:
    """Ask and reset after a moment, whatever has come by then."""
    sock = connect(ask.port)
    sock.sendall(f"GET {ask.prefix}{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    time.sleep(random.random() * 0.02)
    linger_reset(sock)


def _leaves_in_the_body(ask: Ask, number: int) -> None:
    """Send half of a request and close."""
    with connect(ask.port) as sock:
        head = f"PUT {ask.prefix}{number} HTTP/1.1\r\nhost: a\r\ncontent-length: 9000\r\n\r\n"
        sock.sendall(head.encode() + b"x" * 4500)
        time.sleep(random.random() * 0.02)


def _half_closes(ask: Ask, number: int) -> None:
    """Ask, say that nothing more comes, and read all the same."""
    with connect(ask.port) as sock:
        sock.sendall(f"GET {ask.prefix}{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
        sock.shutdown(socket.SHUT_WR)
        try:
            read_to_end(sock)
        except ConnectionError:
            return


def _asks_ahead(ask: Ask, number: int) -> None:
    """Send several requests at once and leave after the first answer."""
    with Client(connect(ask.port)) as client:
        request = f"GET {ask.prefix}{number} HTTP/1.1\r\nhost: a\r\n\r\n".encode()
        client.send(request * 5)
        assert client.response().status == 200


MANNERS = (_leaves_at_once, _leaves_in_the_body, _half_closes, _asks_ahead)


@pytest.mark.parametrize("kind", KINDS, ids=slug)
def test_clients_that_leave(faults: Mesh, kind: type[Faulty]) -> None:
    """Those that stay are served well meanwhile, and nothing stays under way afterwards."""
    ask = faults.ask("both", kind)

    def misbehave(manner: Callable[[Ask, int], None]) -> None:
        for number in range(15):
            manner(ask, number)

    threads = [threading.Thread(target=misbehave, args=(manner,)) for manner in MANNERS]
    with Clients(ask, 3) as clients:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clients.stop().judge()
    assert faults.settled()


def test_a_body_that_comes_slowly(faults: Mesh) -> None:
    """A request whose body is under way when the upstream breaks off is repeated whole."""
    ask = faults.ask("retries", ResetsInTheBody)
    for number in range(1, 7):
        body = random.randbytes(6000)
        target = f"{ask.prefix}{number}"
        with Client(connect(ask.port)) as client:
            client.send(
                f"PUT {target} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            )
            for at in range(0, len(body), 1000):
                client.send(body[at : at + 1000])
                time.sleep(0.002)
            response = client.response("PUT")
        assert (response.status, response.body) == (200, honest_body("PUT", target, body))


def test_requests_sent_ahead(faults: Mesh) -> None:
    """Pipelined requests are answered in order, each well, whatever happens to any of them."""
    ask = faults.ask("retries", AnyFault)
    with Client(connect(ask.port)) as client:
        targets = [f"{ask.prefix}{number}" for number in range(40)]
        client.send(
            b"".join(f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode() for target in targets)
        )
        for target in targets:
            response = client.response()
            assert (response.status, response.body) == (200, honest_body("GET", target, b""))


def test_many_at_a_time(faults: Mesh) -> None:
    """A crowd is served as well as a few."""
    run(faults.ask("both", AnyFault), 60, 10).judge()
    eventually(lambda: faults.proxy.get("admin", "/ready").status == 200, "it to be ready")
