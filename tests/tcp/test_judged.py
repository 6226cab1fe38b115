"""Filters that judge connections: with bytes moved by the kernel, and by transports."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from twisted.internet import defer

from meshproxy.api import Refuse
from tests.tcp.filters import Judge, Keep, errors, filtered
from tests.tcp.mesh import rst

if TYPE_CHECKING:
    from meshproxy.tcp.listener import TcpListener
    from tests.tcp.mesh import Mesh


def world(mesh: Mesh, *filters: Any, **options: Any) -> tuple[Any, socket.socket, TcpListener]:
    """Where to connect, the upstream's socket and the listener."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    listener = filtered(mesh, *filters, **options)
    return mesh.bind(listener), server, listener


def test_one_that_lets_pass(mesh: Mesh) -> None:
    """The filter is asked with the connection's facts, and told of the end, once each."""
    facts: list[Any] = []

    def look(connection: Any) -> None:
        connection.metadata["seen"] = True
        connection.notes["mine"] = 1
        connection.details = b"looked_at"
        facts.append(
            (
                connection.client_ip,
                connection.local,
                connection.listener_name,
                connection.cluster_name,
                connection.upstream,
                connection.tls,
            )
        )

    judge = Judge(look)
    where, server, _ = world(mesh, judge)
    client, upstream = mesh.pair(where, server)
    client.send(b"hello")
    assert mesh.read(upstream, 5) == b"hello"
    upstream.send(b"you")
    assert mesh.read(client, 3) == b"you"
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert facts == [(b"127.0.0.1", b"127.0.0.1:%d" % where[1], b"in", b"", b"", None)]
    assert judge.over == [b"looked_at"]
    (record,) = mesh.records
    assert (record["details"], record["flags"]) == (b"looked_at", b"-")
    assert record["bytes_received"] == 5


def test_the_kernel_still_moves_the_bytes(mesh: Mesh) -> None:
    """A chain that only judges costs bytes nothing: they are spliced where they were before."""
    where, server, listener = world(mesh, Judge(lambda connection: None))
    mesh.pair(where, server)
    (connection,) = listener._open
    assert type(connection).__name__ == (
        "JudgedConnection" if mesh.watching else "FilteredConnection"
    )


def test_order_and_the_first_refusal(mesh: Mesh) -> None:
    """Filters are asked in order until one refuses; all are told of the end."""
    order: list[str] = []

    def note(name: str, answer: Any) -> Any:
        def connected(connection: Any) -> Any:
            order.append(name)
            return answer

        return Judge(connected)

    filters = [note("a", None), note("b", Refuse(details=b"no", flags=b"UAEX")), note("c", None)]
    where, server, _ = world(mesh, *filters)
    client = mesh.connect(where)
    assert mesh.end(client) == b""
    mesh.turn(lambda: mesh.records)
    assert order == ["a", "b"]
    assert [one.over for one in filters] == [[b"no"]] * 3
    assert (mesh.records[0]["details"], mesh.records[0]["flags"]) == (b"no", b"UAEX")
    assert mesh.value("filter_answers_total", listener="in", filter="f1") == 1
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_refusal_by_reset(mesh: Mesh) -> None:
    """reset=True is a RST."""
    where, _, _ = world(mesh, Judge(lambda connection: Refuse(reset=True)))
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"filter_refused"


def test_a_refusal_with_a_word_reaches_a_client_that_spoke_first(mesh: Mesh) -> None:
    """What the client sent is not what keeps it from hearing why: no RST overtakes the word."""
    judge = Judge(lambda connection: Refuse(data=b"come back later\n"))
    where, _, listener = world(mesh, judge)
    client = mesh.connect(where)
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert mesh.end(client) == b"come back later\n"
    assert listener.active == 1
    client.shutdown(socket.SHUT_WR)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["local"] == b"127.0.0.1:%d" % where[1]
    assert judge.over == [b"filter_refused"]


def test_a_refused_client_that_stays_is_closed(mesh: Mesh) -> None:
    """Who does not end its side after the word is not waited for longer than a second."""
    where, _, listener = world(mesh, Judge(lambda connection: Refuse(data=b"no\n")))
    client = mesh.connect(where)
    assert mesh.read(client, 3) == b"no\n"
    mesh.pass_time(1.5)
    mesh.turn(lambda: not listener.active)
    assert mesh.end(client) == b""


def test_one_that_raises(mesh: Mesh) -> None:
    """Its exception costs the connection alone, names it, and is counted."""

    def judge(connection: Any) -> None:
        if connection.listener.stats.values[connection.listener.stats.total] == 1:
            raise ZeroDivisionError("mine")

    where, server, _ = world(mesh, Judge(judge))
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["details"]) == (b"-", b"filter_error[f0]")
    assert errors(mesh) == 1
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    assert mesh.read(upstream, 1) == b"x"


def test_an_answer_that_is_none(mesh: Mesh) -> None:
    """True is no answer: it is an error of the filter's."""
    where, _, _ = world(mesh, Judge(lambda connection: True))
    assert mesh.was_reset(mesh.connect(where))
    assert errors(mesh) == 1


def test_an_observer_that_raises(mesh: Mesh) -> None:
    """The others are told, and the record is written, all the same."""
    bad, good = Judge(lambda connection: None), Judge(lambda connection: None)

    def fail(connection: Any) -> None:
        raise ZeroDivisionError("mine")

    bad.closed = fail
    where, server, _ = world(mesh, bad, good)
    client, upstream = mesh.pair(where, server)
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert good.over == [b"closed"]
    assert errors(mesh) == 1


def test_one_that_waits(mesh: Mesh) -> None:
    """No upstream is asked for meanwhile; what the client sent, and its end, arrive afterwards."""
    keep = Keep()
    where, server, _ = world(mesh, keep)
    client = mesh.connect(where)
    client.send(b"early")
    client.shutdown(socket.SHUT_WR)
    mesh.turn(lambda: keep.waiting)
    mesh.settle()
    with pytest.raises(BlockingIOError):
        server.accept()
    keep.waiting[0].callback(None)
    upstream = mesh.accept(server)
    assert mesh.end(upstream) == b"early"
    upstream.send(b"late")
    upstream.close()
    assert mesh.end(client) == b"late"
    assert keep.cancelled == 0
    assert mesh.value("filter_waits_total", listener="in", filter="f0") == 1


def test_a_deferred_that_has_fired_is_no_wait(mesh: Mesh) -> None:
    """It goes on at once, and is not counted as waiting."""
    where, server, _ = world(mesh, Judge(lambda connection: defer.succeed(None)))
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    assert mesh.read(upstream, 1) == b"x"
    assert mesh.value("filter_waits_total", listener="in", filter="f0") == 0


def test_a_coroutine(mesh: Mesh) -> None:
    """async def is waited for; what it returns counts."""
    gate: defer.Deferred[None] = defer.Deferred()

    async def judge(connection: Any) -> Refuse:
        await gate
        return Refuse(data=b"never\n")

    where, _, _ = world(mesh, Judge(judge))
    client = mesh.connect(where)
    mesh.turn(lambda: mesh.listeners[0].active)
    mesh.settle()
    gate.callback(None)
    assert mesh.end(client) == b"never\n"


def test_a_refusal_that_comes_late(mesh: Mesh) -> None:
    """A Deferred may fire with a refusal; later filters are not asked."""
    keep = Keep()
    last = Judge(lambda connection: last.asked.append(connection))
    where, _, _ = world(mesh, keep, last)
    client = mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    keep.waiting[0].callback(Refuse(reset=True, details=b"late"))
    assert mesh.was_reset(client)
    assert last.asked == []


def test_a_deferred_that_fails(mesh: Mesh) -> None:
    """A failure is an exception."""
    keep = Keep()
    where, _, _ = world(mesh, keep)
    client = mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    keep.waiting[0].errback(ValueError("mine"))
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["details"] == b"filter_error[f0]"
    assert errors(mesh) == 1


def test_a_client_that_leaves_meanwhile(mesh: Mesh) -> None:
    """What the filter waits for is cancelled; that is no error of the filter's."""
    keep = Keep()
    where, _, listener = world(mesh, keep)
    client = mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    rst(client)
    mesh.turn(lambda: not listener.active)
    assert keep.cancelled == 1
    assert mesh.records[0]["flags"] == b"DC"
    assert errors(mesh) == 0


def test_a_coroutine_is_cancelled_and_may_clean_up(mesh: Mesh) -> None:
    """CancelledError comes out of its await; that it closes the connection then does no harm."""
    ends: list[str] = []

    async def judge(connection: Any) -> None:
        try:
            await defer.Deferred()
        except (defer.CancelledError, asyncio.CancelledError):
            ends.append("cancelled")
            raise
        finally:
            connection.close()

    where, _, listener = world(mesh, Judge(judge))
    client = mesh.connect(where)
    mesh.turn(lambda: listener.active)
    mesh.settle()
    rst(client)
    mesh.turn(lambda: not listener.active)
    assert ends == ["cancelled"]
    assert errors(mesh) == 0


def test_what_goes_wrong_after_a_cancellation_is_told(mesh: Mesh) -> None:
    """Another exception than the cancellation's is an error of the filter's."""

    async def judge(connection: Any) -> None:
        with suppress(defer.CancelledError, asyncio.CancelledError):
            await defer.Deferred()
        raise ValueError("while cleaning up")

    where, _, listener = world(mesh, Judge(judge))
    client = mesh.connect(where)
    mesh.turn(lambda: listener.active)
    mesh.settle()
    rst(client)
    mesh.turn(lambda: not listener.active)
    assert errors(mesh) == 1


def test_nobody_waits_for_ever(mesh: Mesh) -> None:
    """After the idle timeout the client is reset, the wait cancelled, and the filter named."""
    keep = Keep()
    where, _, _ = world(mesh, keep, idle_timeout="3s")
    client = mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    mesh.pass_time(2.5)
    assert keep.cancelled == 0
    mesh.pass_time(1)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert keep.cancelled == 1
    assert mesh.records[0]["details"] == b"filter_timeout[f0]"
    assert errors(mesh) == 1


@pytest.mark.parametrize(
    ("options", "seconds", "flags"),
    [({"idle_timeout": 0}, 15.0, b"-"), ({"max_duration": "2s"}, 2.0, b"DT")],
)
def test_other_bounds_of_waiting(
    mesh: Mesh, options: dict[str, Any], seconds: float, flags: bytes
) -> None:
    """Without an idle timeout it is 15 seconds; max_duration holds while a filter waits."""
    keep = Keep()
    where, _, listener = world(mesh, keep, **options)
    mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    mesh.pass_time(seconds - 0.5)
    assert listener.active == 1
    mesh.pass_time(1)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == flags
    assert keep.cancelled == 1


def test_stopping_ends_the_wait(mesh: Mesh) -> None:
    """A listener that stops does not wait for a filter."""
    keep = Keep()
    where, _, listener = world(mesh, keep)
    mesh.connect(where)
    mesh.turn(lambda: keep.waiting)
    gone = listener.stop()
    mesh.turn(lambda: gone.called)
    assert keep.cancelled == 1


@pytest.mark.parametrize("reset", [False, True])
def test_a_filter_may_close(mesh: Mesh, reset: bool) -> None:
    """close() ends a connection at any time; twice is once, and an answer afterwards is nothing."""

    def judge(connection: Any) -> Refuse:
        connection.close(reset)
        connection.close(not reset)
        return Refuse(data=b"too late")

    judging = Judge(judge)
    where, server, _ = world(mesh, judging)
    client = mesh.connect(where)
    assert mesh.was_reset(client) is reset
    mesh.turn(lambda: mesh.records)
    assert judging.over == [b"ended_by_a_filter"]
    with pytest.raises(BlockingIOError):
        server.accept()


def test_a_filter_may_close_later(mesh: Mesh) -> None:
    """Whoever keeps the connection can end it while bytes are moved."""
    held: list[Any] = []
    where, server, _ = world(mesh, Judge(held.append))
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    assert mesh.read(upstream, 1) == b"x"
    held[0].close(True)
    assert mesh.was_reset(client)
    assert mesh.was_reset(upstream)


def test_writing_needs_bytes(mesh: Mesh) -> None:
    """A chain that only judges cannot write where the kernel moves the bytes, and is told so."""
    if not mesh.watching:
        pytest.skip("here every byte comes through the process")

    def judge(connection: Any) -> None:
        connection.write(b"x")

    where, _, _ = world(mesh, Judge(judge))
    assert mesh.was_reset(mesh.connect(where))
    assert errors(mesh) == 1


def test_behind_a_proxy_header(mesh: Mesh) -> None:
    """The filter sees whom the PROXY header names, and what came with the header is not lost."""
    server = mesh.server()
    mesh.cluster("up", server.getsockname())
    keep = Keep()
    seen: list[bytes] = []
    judge = Judge(lambda connection: seen.append(connection.client))
    listener = filtered(mesh, judge, keep, listener={"proxy_protocol": True})
    client = mesh.connect(mesh.bind(listener))
    client.send(b"PROXY TCP4 192.0.2.9 192.0.2.1 77 80\r\nand more")
    mesh.turn(lambda: keep.waiting)
    keep.waiting[0].callback(None)
    assert mesh.read(mesh.accept(server), 8) == b"and more"
    assert seen == [b"192.0.2.9:77"]


def test_a_bad_header_never_meets_the_chain(mesh: Mesh) -> None:
    """Nobody is asked, or told of the end, of a connection without a good PROXY header."""
    judge = Judge(lambda connection: judge.asked.append(connection))
    mesh.cluster("up", mesh.server().getsockname())
    listener = filtered(mesh, judge, listener={"proxy_protocol": True})
    client = mesh.connect(mesh.bind(listener))
    client.send(b"GET / HTTP/1.0\r\n\r\n")
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert judge.asked == judge.over == []


def test_a_canceller_that_raises_costs_its_connection_alone(mesh: Mesh) -> None:
    """The connection ends, is counted and recorded, and the listener stops."""

    def boom(_: defer.Deferred[None]) -> None:
        raise ZeroDivisionError("a canceller")

    judge = Judge(lambda connection: defer.Deferred(boom))
    where, _, listener = world(mesh, judge)
    client = socket.create_connection(where)
    try:
        mesh.turn(lambda: listener.active == 1)
        stopped = listener.stop()
        mesh.turn(lambda: listener.active == 0)
        assert stopped.called
        assert len(judge.over) == 1
        assert len(mesh.records) == 1
    finally:
        client.close()
