"""What a connection takes of its cluster, what it gives back, and what it says of an endpoint."""

from __future__ import annotations

import errno
import gc
import select
import socket
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.net.proxy_protocol import encode_v1
from meshproxy.tcp import spliced
from meshproxy.tcp.connection import PROVEN, SETTLE
from meshproxy.upstream.endpoint import CLOSED, OPEN
from meshproxy.upstream.hashing import hash64
from tests.tcp.mesh import Mesh, rst

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meshproxy.upstream.cluster import Cluster
    from meshproxy.upstream.endpoint import Endpoint


class Judge:
    """A breaker that only listens."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Endpoint]] = []

    def failed(self, endpoint: Endpoint, local: bool) -> None:
        assert local
        self.heard.append(("failed", endpoint))
        endpoint.failures += 1
        endpoint.local_failures += 1

    def succeeded(self, endpoint: Endpoint) -> None:
        self.heard.append(("succeeded", endpoint))
        endpoint.failures = 0

    def stop(self) -> None:
        """It has no timers."""

    def connected(self, endpoint: Endpoint) -> None:
        self.heard.append(("connected", endpoint))
        endpoint.local_failures = 0


class Choice:
    """A group whose picks are a list, and which remembers what it was asked."""

    by_hash = False
    nobody_has_room = False

    def __init__(self, cluster: Cluster, *picks: Endpoint | None) -> None:
        self.cluster = cluster
        self.limits = cluster.limits.default
        self.picks = list(picks)
        self.asked: list[tuple[Any, ...]] = []

    def pick(self) -> Endpoint | None:
        self.asked.append(("pick",))
        return self.picks.pop(0)

    def pick_by(self, number: int) -> Endpoint | None:
        self.asked.append(("pick_by", number))
        return self.picks.pop(0)

    def pick_other(self, tried: Sequence[Endpoint], number: int | None = None) -> Endpoint | None:
        self.asked.append(("pick_other", tuple(tried), number))
        return self.picks.pop(0)

    def full(self) -> bool:
        return self.nobody_has_room


def judged(mesh: Mesh, *names: Any, **options: Any) -> tuple[Cluster, Judge]:
    """A cluster ``up`` with a :class:`Judge` for a breaker."""
    cluster = mesh.cluster("up", *names, **options)
    judge: Any = Judge()
    cluster.breaker = judge
    return cluster, judge


def choosing(
    mesh: Mesh, choice: Callable[[Cluster], Choice], *names: Any, attempts: int = 1, **options: Any
) -> tuple[Any, Choice]:
    """Where to connect to a listener whose group is ``choice(cluster)``."""
    cluster = mesh.cluster("up", *names)
    group = choice(cluster)
    listener = mesh.listener(tcp={"max_connect_attempts": attempts}, **options)
    chosen: Any = group
    listener.pick = lambda: chosen
    return mesh.bind(listener), group


def silent(mesh: Mesh) -> Any:
    """The name of a socket whose queue is full: a connection to it gets no answer."""
    server = mesh.server()
    server.listen(0)
    mesh.connect(server.getsockname())
    return server.getsockname()


def test_each_attempt_goes_elsewhere(mesh: Mesh) -> None:
    """A further attempt is asked for with what was tried already, until one answers."""
    server = mesh.server()
    where, group = choosing(
        mesh,
        lambda cluster: Choice(cluster, *cluster.endpoints),
        mesh.refused(),
        mesh.refused(),
        server.getsockname(),
        attempts=5,
    )
    client, upstream = mesh.pair(where, server)
    client.send(b"x")
    assert mesh.read(upstream, 1) == b"x"
    one, two, three = group.cluster.endpoints
    assert group.asked == [
        ("pick",),
        ("pick_other", (one,), None),
        ("pick_other", (one, two), None),
    ]
    assert [endpoint.active for endpoint in (one, two, three)] == [0, 0, 1]
    assert [endpoint.failed for endpoint in (one, two, three)] == [1, 1, 0]
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["attempts"]) == (b"-", 3)
    assert mesh.value("cluster_connect_failures_total", cluster="up") == 2


def test_no_other_endpoint(mesh: Mesh) -> None:
    """When nothing is left to attempt, the record tells of the attempt that there was."""
    where, group = choosing(
        mesh,
        lambda cluster: Choice(cluster, cluster.endpoints[0], None),
        mesh.refused(),
        attempts=3,
    )
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["attempts"]) == (b"UF", 1)
    assert mesh.records[0]["upstream"] == group.cluster.endpoints[0].text
    assert mesh.value("cluster_no_endpoint_total", cluster="up") == 0


def test_a_timeout_is_followed_by_another(mesh: Mesh) -> None:
    """An endpoint that is silent for connect_timeout gives way to one that answers."""
    server = mesh.server()
    where, group = choosing(
        mesh,
        lambda cluster: Choice(cluster, *cluster.endpoints),
        silent(mesh),
        server.getsockname(),
        attempts=2,
    )
    client = mesh.connect(where)
    client.send(b"patience")
    mesh.turn(lambda: group.cluster.endpoints[0].active)
    mesh.pass_time(5.5)
    assert mesh.read(mesh.accept(server), 8) == b"patience"
    assert mesh.value("cluster_connect_timeouts_total", cluster="up") == 1


def test_connection_limit(mesh: Mesh) -> None:
    """Over the cluster's limit of connections a client is reset at once; then there is room."""
    server = mesh.server()
    cluster = mesh.cluster("up", server.getsockname(), limits={"connections": 1})
    where = mesh.bind(mesh.listener())
    client, upstream = mesh.pair(where, server)
    assert cluster.limits.connections == 1
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["attempts"]) == (b"UO", 0)
    assert mesh.records[0]["details"] == b"overflow_connections"
    assert mesh.value("cluster_overflow_connections_total", cluster="up") == 1
    assert mesh.value("cluster_no_endpoint_total", cluster="up") == 0
    client.close()
    upstream.close()
    mesh.turn(lambda: len(mesh.records) == 2)
    assert cluster.limits.connections == 0
    mesh.pair(where, server)


def test_an_attempt_counts_against_the_limit(mesh: Mesh) -> None:
    """What is still connecting takes its place, and a failed attempt gives it back."""
    cluster = mesh.cluster("up", silent(mesh), limits={"connections": 1}, connect_timeout=2.0)
    where = mesh.bind(mesh.listener())
    waiting = mesh.connect(where)
    mesh.turn(lambda: cluster.limits.connections)
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"UO"
    mesh.pass_time(3)
    assert mesh.was_reset(waiting)
    assert cluster.limits.connections == 0


@pytest.mark.parametrize(
    ("full", "flags", "details", "counter"),
    [
        (True, b"UO", b"overflow_endpoints", "overflow_endpoints"),
        (False, b"UH", b"no_healthy_upstream", "no_endpoint"),
    ],
)
def test_none_to_pick(mesh: Mesh, full: bool, flags: bytes, details: bytes, counter: str) -> None:
    """Endpoints that have enough are told from endpoints that are not well."""

    def nobody(cluster: Cluster) -> Choice:
        choice = Choice(cluster, None)
        choice.nobody_has_room = full
        return choice

    where, group = choosing(mesh, nobody, mesh.refused(), attempts=3)
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["details"]) == (flags, details)
    counts = Counter(
        {
            name: mesh.value(f"cluster_{name}_total", cluster="up")
            for name in ("overflow_endpoints", "no_endpoint", "overflow_connections")
        }
    )
    assert +counts == {counter: 1}
    assert group.asked == [("pick",)]


def test_refusals_are_failures(mesh: Mesh) -> None:
    """Every failed attempt is one verdict on the endpoint that failed."""
    cluster, judge = judged(mesh, mesh.refused(), mesh.refused())
    where = mesh.bind(mesh.listener(tcp={"max_connect_attempts": 2}))
    assert mesh.was_reset(mesh.connect(where))
    assert Counter(judge.heard) == {("failed", one): 1 for one in cluster.endpoints}
    assert [one.failed for one in cluster.endpoints] == [1, 1]


def test_a_timeout_is_a_failure(mesh: Mesh) -> None:
    """No answer in time is a verdict like a refusal."""
    cluster, judge = judged(mesh, silent(mesh), connect_timeout=2.0)
    client = mesh.connect(mesh.bind(mesh.listener()))
    (endpoint,) = cluster.endpoints
    mesh.turn(lambda: endpoint.active)
    mesh.pass_time(3)
    assert mesh.was_reset(client)
    assert judge.heard == [("failed", endpoint)]


@pytest.mark.parametrize("said", [b"", b"a word"])
def test_a_connection_is_a_success(mesh: Mesh, said: bytes) -> None:
    """A connection that ends in order is an answer; the breaker hears of it after failures."""
    server = mesh.server()
    cluster, judge = judged(mesh, server.getsockname())
    (endpoint,) = cluster.endpoints
    where = mesh.bind(mesh.listener())
    for failures in (0, 1):
        endpoint.failures = endpoint.local_failures = failures
        client, upstream = mesh.pair(where, server)
        upstream.send(said)
        assert mesh.read(client, len(said)) == said
        mesh.turn(lambda: endpoint.connections)
        assert endpoint.answered == failures
        client.close()
        upstream.close()
        mesh.turn(lambda failures=failures: len(mesh.records) == failures + 1)  # type: ignore[misc]
        assert endpoint.answered == failures + 1
    assert judge.heard == [("connected", endpoint), ("succeeded", endpoint)]


def test_a_lasting_connection_is_a_success(mesh: Mesh) -> None:
    """An endpoint that failed has a verdict soon, even of a connection that says nothing."""
    server = mesh.server()
    cluster, judge = judged(mesh, server.getsockname())
    (endpoint,) = cluster.endpoints
    where = mesh.bind(mesh.listener())
    pairs = [mesh.pair(where, server)]
    mesh.turn(lambda: endpoint.connections == 1)
    endpoint.failures = 1
    pairs.append(mesh.pair(where, server))
    mesh.turn(lambda: endpoint.connections == 2)
    mesh.pass_time(PROVEN + 0.5)
    assert (endpoint.answered, judge.heard) == (1, [("succeeded", endpoint)])
    mesh.pass_time(SETTLE)
    assert endpoint.answered == 2
    for client, upstream in pairs:
        client.close()
        upstream.close()
    mesh.turn(lambda: len(mesh.records) == 2)
    assert endpoint.answered == 2
    assert judge.heard == [("succeeded", endpoint)]


def test_accepting_and_resetting_is_failing(mesh: Mesh) -> None:
    """An endpoint that accepts every connection and resets it opens its breaker."""
    server = mesh.server()
    cluster = mesh.cluster("up", server.getsockname(), circuit_breaker={"failure_threshold": 3})
    where = mesh.bind(mesh.listener())
    for _ in range(3):
        assert cluster.endpoints[0].breaker == CLOSED
        client, upstream = mesh.pair(where, server)
        mesh.turn(lambda: cluster.endpoints[0].connections)
        rst(upstream)
        assert mesh.was_reset(client)
    assert cluster.endpoints[0].breaker == OPEN
    assert mesh.was_reset(mesh.connect(where))
    mesh.turn(lambda: len(mesh.records) == 4)
    assert [record["flags"] for record in mesh.records] == [b"UC", b"UC", b"UC", b"UH"]


@pytest.mark.parametrize("said", [b"", b"a word"])
def test_a_reset_by_a_silent_upstream_is_a_failure(mesh: Mesh, said: bytes) -> None:
    """A reset before any byte of the upstream's is a failure, and one after it is not."""
    server = mesh.server()
    cluster, judge = judged(mesh, server.getsockname())
    client, upstream = mesh.pair(mesh.bind(mesh.listener()), server)
    if said:
        upstream.send(said)
        mesh.read(client, len(said))
    mesh.turn(lambda: cluster.endpoints[0].connections)
    rst(upstream)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"UC"
    assert judge.heard == ([] if said else [("failed", cluster.endpoints[0])])


def test_a_client_that_leaves_is_no_verdict(mesh: Mesh) -> None:
    """A client's reset says nothing of an upstream that has not said anything."""
    server = mesh.server()
    cluster, judge = judged(mesh, server.getsockname())
    client, upstream = mesh.pair(mesh.bind(mesh.listener()), server)
    mesh.turn(lambda: cluster.endpoints[0].connections)
    rst(client)
    assert mesh.was_reset(upstream)
    mesh.turn(lambda: mesh.records)
    (endpoint,) = cluster.endpoints
    assert (judge.heard, endpoint.answered, endpoint.failed) == ([], 0, 0)


def test_our_own_want_is_no_verdict(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without descriptors nothing is held against the endpoint, and no other is tried."""
    cluster, judge = judged(mesh, mesh.refused(), mesh.refused())
    where = mesh.bind(mesh.listener(tcp={"max_connect_attempts": 3}))
    client = mesh.connect(where)

    def none(*arguments: object) -> Any:
        raise OSError(errno.EMFILE, "too many")

    with monkeypatch.context() as patch:
        if mesh.watching:
            patch.setattr(spliced, "Socket", none)
        else:
            patch.setattr("meshproxy.net.connect.socket.socket", Lacking)
        mesh.turn(lambda: mesh.records)
    assert mesh.was_reset(client)
    assert (mesh.records[0]["flags"], mesh.records[0]["attempts"]) == (b"UF", 1)
    assert judge.heard == []
    assert [one.failed for one in cluster.endpoints] == [0, 0]
    assert mesh.value("cluster_connect_failures_total", cluster="up") == 1


class Lacking(socket.socket):
    """A socket class that can wrap what was accepted, and open nothing."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        if named.get("fileno") is None:
            raise OSError(errno.EMFILE, "too many")
        super().__init__(*arguments, **named)


def test_hash_by_address(mesh: Mesh) -> None:
    """A cluster that balances by hash is asked with the hash of the client's address."""

    def hashing(cluster: Cluster) -> Choice:
        choice = Choice(cluster, *cluster.endpoints)
        choice.by_hash = True
        return choice

    server = mesh.server()
    where, group = choosing(mesh, hashing, mesh.refused(), server.getsockname(), attempts=2)
    mesh.pair(where, server)
    number = hash64(b"127.0.0.1")
    first = group.cluster.endpoints[0]
    assert group.asked == [("pick_by", number), ("pick_other", (first,), number)]


def test_hash_by_the_address_of_a_header(mesh: Mesh) -> None:
    """The address that a PROXY header names is the client's."""

    def hashing(cluster: Cluster) -> Choice:
        choice = Choice(cluster, *cluster.endpoints)
        choice.by_hash = True
        return choice

    server = mesh.server()
    where, group = choosing(mesh, hashing, server.getsockname(), proxy_protocol=True)
    mesh.connect(where).send(encode_v1(("192.0.2.7", 4711), ("198.51.100.1", 443)))
    mesh.accept(server)
    assert group.asked == [("pick_by", hash64(b"192.0.2.7"))]


def test_no_address_to_hash(mesh: Mesh, tmp_path: Path) -> None:
    """Clients of a UNIX socket, which have no address, are spread as if there were no hash."""
    server = mesh.server()
    cluster = mesh.cluster("up", server.getsockname())
    group = Choice(cluster, *cluster.endpoints)
    group.by_hash = True
    listener = mesh.listener()
    chosen: Any = group
    listener.pick = lambda: chosen
    mesh.pair(mesh.bind(listener, str(tmp_path / "in")), server)
    assert group.asked == [("pick",)]


def test_subset(mesh: Mesh) -> None:
    """A listener's ``subset`` is what its clusters are asked for."""
    mesh.cluster("up", {"address": "127.0.0.1:1", "labels": {"version": "v2"}})
    listener = mesh.listener(tcp={"subset": {"version": "v2"}})
    assert listener.pick().labels == {"version": "v2"}


def test_an_endpoint_that_goes(mesh: Mesh) -> None:
    """Connections outlive their endpoint's removal, are counted on it, and then let go of it."""
    server = mesh.server()
    cluster = mesh.cluster("up", server.getsockname())
    client, upstream = mesh.pair(mesh.bind(mesh.listener()), server)
    (endpoint,) = cluster.endpoints
    mesh.turn(lambda: endpoint.connections)
    cluster.update([])
    assert endpoint.removed
    for one, two in ((client, upstream), (upstream, client)):
        one.send(b"still here")
        assert mesh.read(two, 10) == b"still here"
    assert (endpoint.active, endpoint.connections, cluster.limits.connections) == (1, 1, 1)
    assert _holders(endpoint)
    client.close()
    upstream.close()
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["upstream"] == endpoint.text
    assert (endpoint.active, endpoint.connections, cluster.limits.connections) == (0, 0, 0)
    mesh.settle()
    assert not _holders(endpoint)


def _holders(endpoint: Endpoint) -> list[object]:
    """What in the room refers to ``endpoint``."""
    gc.collect()
    return [
        one
        for one in gc.get_referrers(endpoint)
        if type(one).__module__.startswith(("meshproxy.tcp", "meshproxy.net"))
    ]


def test_max_duration(mesh: Mesh) -> None:
    """A connection that lasted max_duration is closed however busy it is, and says so."""
    where, server = mesh.proxy(tcp={"max_duration": 12.0})
    client, upstream = mesh.pair(where, server)
    mesh.settle()
    for _ in range(3):
        mesh.pass_time(3.5)
        client.send(b"x")
        mesh.read(upstream, 1)
    assert not mesh.records
    mesh.pass_time(2)
    assert mesh.end(client) == mesh.end(upstream) == b""
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["details"]) == (b"DT", b"max_duration")
    assert mesh.records[0]["bytes_received"] == 3
    assert mesh.value("listener_duration_timeouts_total", listener="in") == 1
    assert mesh.value("listener_idle_timeouts_total", listener="in") == 0


def test_a_short_max_duration(mesh: Mesh) -> None:
    """One shorter than the interval of settling is kept, too."""
    where, server = mesh.proxy(tcp={"max_duration": 1.0})
    client, _ = mesh.pair(where, server)
    mesh.settle()
    mesh.pass_time(0.75)
    assert not mesh.records
    mesh.pass_time(0.5)
    assert mesh.end(client) == b""
    mesh.turn(lambda: mesh.records)


def test_max_duration_without_an_upstream(mesh: Mesh) -> None:
    """The time runs from the beginning: attempts end with it, the client is reset."""
    cluster = mesh.cluster("up", silent(mesh), connect_timeout=2.0)
    where = mesh.bind(mesh.listener(tcp={"max_duration": 3.0, "max_connect_attempts": 5}))
    client = mesh.connect(where)
    mesh.turn(lambda: cluster.endpoints[0].active)
    mesh.pass_time(2.5)
    assert not mesh.records
    assert cluster.endpoints[0].active == 1
    mesh.pass_time(1)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert (mesh.records[0]["flags"], mesh.records[0]["attempts"]) == (b"DT", 2)
    assert mesh.value("cluster_connect_timeouts_total", cluster="up") == 1


def test_max_duration_before_a_header(mesh: Mesh) -> None:
    """A client that says nothing where a PROXY header is due does not outlast it either."""
    where, _ = mesh.proxy(tcp={"max_duration": 3.0}, proxy_protocol=True)
    client = mesh.connect(where)
    mesh.turn(lambda: mesh.listeners[0].active)
    mesh.pass_time(3.5)
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    assert mesh.records[0]["flags"] == b"DT"


def test_a_reset_before_the_header(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where TLS follows: after the kernel's word that it is connected, the next is tried."""
    servers = {server.getsockname(): server for server in (mesh.server(), mesh.server())}
    cluster = mesh.cluster("up", *servers, proxy_protocol="v1")
    cluster.tls = object()  # which nobody asks
    made: list[socket.socket] = []

    def gone(*arguments: Any, **_: Any) -> None:
        _, _, sockaddr, _, done, _ = arguments
        sock = socket.create_connection(sockaddr)
        servers[sockaddr].setblocking(True)
        rst(servers[sockaddr].accept()[0])
        select.select([sock], [], [], 20)
        made.append(sock)
        done(sock)

    monkeypatch.setattr("meshproxy.net.connect.connect", gone)
    client = mesh.connect(mesh.bind(mesh.listener(tcp={"max_connect_attempts": 2})))
    assert mesh.was_reset(client)
    mesh.turn(lambda: mesh.records)
    (record,) = mesh.records
    assert (record["flags"], record["attempts"]) == (b"UF,URX", 2)
    assert [sock.fileno() for sock in made] == [-1, -1]
