"""The composition root: bound all or nothing, and closed to the last socket."""

from __future__ import annotations

import contextlib
import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import defer
from twisted.internet.task import Clock

from meshproxy.config import load, load_file
from meshproxy.errors import ConfigError, ListenError, MeshproxyError
from meshproxy.net.reactor import MeshReactor
from meshproxy.service import MeshService, make_service, raise_descriptor_limit
from meshproxy.upstreams import Upstreams
from tests.config.texts import DROPINS
from tests.net import live

_MESH = """
listeners:
  web:
    listen: 127.0.0.1:0
    http:
      access_log: { path: %(log)s, format: "%%REQ(:PATH)%% %%RESPONSE_CODE%%" }
      routes: [{ match: { path: /ok }, respond: { body: "fine" } }, { to: site }]
  raw:
    listen: 127.0.0.1:0
    tcp: { to: site }
clusters:
  site: { endpoints: ["127.0.0.1:9"] }
"""


@pytest.fixture
def reactor() -> Iterator[MeshReactor]:
    """A reactor of the test's own."""
    reactor = MeshReactor()
    yield reactor
    live.close(reactor)


def _stopped(service: MeshService, reactor: Any) -> None:
    done: list[object] = []
    service.stopService().addBoth(done.append)
    live.turn_until(reactor, lambda: done)
    assert [result for result in done if hasattr(result, "raiseException")] == []


def _ask(port: int, reactor: Any, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(request)
        client.setblocking(False)
        got = bytearray()

        def answered() -> bool:
            try:
                got.extend(client.recv(65536))
            except BlockingIOError:
                return False
            return b"fine" in got

        live.turn_until(reactor, answered)
        return bytes(got)


def test_it_serves_logs_and_stops(reactor: MeshReactor, tmp_path: Path) -> None:
    """Bound, announced, serving, logging; after stopping, no port, timer or log line is left."""
    announced: list[dict[str, str]] = []
    log = tmp_path / "access.log"
    loaded = load(_MESH % {"log": log}, "mesh.yaml")
    service = make_service(loaded, announced.append, reactor)
    assert not service.ready()
    service.privilegedStartService()
    service.startService()
    assert service.ready()
    assert service.live()
    (addresses,) = announced
    assert addresses.keys() == {"web", "raw"}
    port = int(addresses["web"].rpartition(":")[2])
    answer = _ask(port, reactor, b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [one["kind"] for one in service.listeners()] == ["http", "tcp"]
    assert service.clusters()[0]["name"] == "site"
    assert service.configuration()["listeners"]["web"]["listen"] == "127.0.0.1:0"
    _stopped(service, reactor)
    assert not service.ready()
    assert log.read_bytes() == b"/ok 200\n"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    live.turn(reactor)
    assert reactor.getDelayedCalls() == []


class _Silent:
    """A source that is quiet until the test calls ``update``."""

    def start(self, update: Any, failed: Any) -> None:
        """Keep it."""
        self.update = update

    def stop(self) -> None:
        """No more."""
        self.update = None

    def describe(self) -> dict[str, object]:
        """Nothing."""
        return {}


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "'tcp:0:interface=127.0.0.1'"])
def test_clients_wait_until_the_clusters_are_warm(
    reactor: MeshReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listen: str
) -> None:
    """Bound at once, but not ready, announced or accepting before every source has spoken."""
    source = _Silent()
    monkeypatch.setattr(Upstreams, "_source", lambda self, cluster: source)
    text = (_MESH % {"log": tmp_path / "access.log"}).replace("127.0.0.1:0", listen, 1)
    announced: list[dict[str, str]] = []
    service = make_service(load(text, "mesh.yaml"), announced.append, reactor)
    service.privilegedStartService()
    service.startService()
    port = int(service.addresses()["web"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
        live.turn(reactor, 5)
        assert not service.ready()
        assert announced == []
        assert service.listeners()[0]["connections"] == 0
        source.update([])
        assert service.ready()
        assert [one.keys() for one in announced] == [{"web", "raw"}]
        client.setblocking(False)
        live.turn_until(reactor, lambda: service.listeners()[0]["connections"])
    _stopped(service, reactor)
    assert source.update is None


_SILENT = """
listeners: { web: { listen: 127.0.0.1:0, http: { routes: [{ to: { a: 1, b: 1, c: 1, d: 1 } }] } } }
clusters:
  a: { discovery: { http: "http://127.0.0.1:%(port)s/" } }
  b: { endpoints: ["api.test:80"], resolve: strict, dns: { servers: ["127.0.0.1:%(port)s"] } }
  c: { discovery: { file: c.yaml }, pool: { warm: 2 }, health_check: { http: / } }
  d:
    endpoints: ["127.0.0.1:%(port)s"]
    pool: { warm: 2 }
    circuit_breaker: {}
    health_check: { tcp: { send: hello, expect: hello } }
"""


def test_nothing_is_left_of_what_was_asked(reactor: MeshReactor, tmp_path: Path) -> None:
    """Polls, queries, checks and warm connections under way are ended with the service."""
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket(type=2) as deaf:
        port = silent.getsockname()[1]
        deaf.bind(("127.0.0.1", port))
        config = tmp_path / "mesh.yaml"
        config.write_text(_SILENT % {"port": port})
        (tmp_path / "c.yaml").write_text(f"['127.0.0.1:{port}']")
        service = make_service(load_file(config), reactor=reactor)
        before = set(reactor.getReaders() + reactor.getWriters())
        service.privilegedStartService()
        service.startService()
        live.turn_until(reactor, lambda: service.clusters()[2]["endpoints"][0]["connections"] == 2)
        # A question by UDP is there, and connections by TCP: the poll's and the checks'.
        deaf.settimeout(20)
        assert deaf.recv(512)
        assert not service.ready()
        _stopped(service, reactor)
        live.turn(reactor, 10)
        assert reactor.getDelayedCalls() == []
        left = set(reactor.getReaders() + reactor.getWriters()) - before
        assert not left


def test_stopped_before_the_clusters_are_warm(
    reactor: MeshReactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends at once, never having accepted; what a source says meanwhile does not begin it."""
    source = _Silent()
    monkeypatch.setattr(Upstreams, "_source", lambda self, cluster: source)
    announced: list[dict[str, str]] = []
    loaded = load(_MESH % {"log": tmp_path / "access.log"}, "mesh.yaml")
    service = make_service(loaded, announced.append, reactor)
    service.privilegedStartService()
    service.startService()
    update = source.update
    done: list[object] = []
    service.stopService().addBoth(done.append)
    update([])
    live.turn_until(reactor, lambda: done)
    assert announced == []
    assert not service.ready()
    live.turn(reactor)
    assert reactor.getDelayedCalls() == []


def test_a_log_is_opened_anew(reactor: MeshReactor, tmp_path: Path) -> None:
    """After the file was moved away, reopen_logs writes to a new one at the old path."""
    log = tmp_path / "access.log"
    service = make_service(load(_MESH % {"log": log}, "mesh.yaml"), reactor=reactor)
    service.privilegedStartService()
    service.startService()
    port = int(service.addresses()["web"].rpartition(":")[2])
    request = b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n"
    _ask(port, reactor, request)
    log.rename(tmp_path / "old.log")
    service.reopen_logs()
    _ask(port, reactor, request)
    _stopped(service, reactor)
    assert (tmp_path / "old.log").read_bytes() == log.read_bytes() == b"/ok 200\n"


def test_a_busy_port_binds_nothing(reactor: MeshReactor, tmp_path: Path) -> None:
    """The error names the listener; what was bound before it is free again."""
    text = _MESH % {"log": tmp_path / "access.log"}
    with socket.socket() as taken, socket.socket() as probe:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
        probe.close()
        busy = taken.getsockname()[1]
        text = text.replace("127.0.0.1:0", f"127.0.0.1:{free}", 1)
        text = text.replace("127.0.0.1:0", f"127.0.0.1:{busy}", 1)
        service = make_service(load(text, "mesh.yaml"), reactor=reactor)
        with pytest.raises(ListenError) as caught:
            service.privilegedStartService()
        assert str(caught.value) == (
            f"listener 'raw' cannot listen on 127.0.0.1:{busy}: Address already in use"
        )
        with socket.socket() as again:
            again.bind(("127.0.0.1", free))


def test_an_admin_that_cannot_be_bound_is_named(reactor: MeshReactor) -> None:
    """The admin's port counts as much as a listener's."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        loaded = load(
            f"admin: {{ listen: {address} }}\n"
            "listeners: { web: { listen: '127.0.0.1:0', http: { routes: [{ respond: {} }] } } }\n",
            "mesh.yaml",
        )
        service = make_service(loaded, reactor=reactor)
        with pytest.raises(ListenError) as caught:
            service.privilegedStartService()
        assert caught.value.listener == "admin"
        assert "in use" in caught.value.reason


def test_a_bad_operator_is_reported_at_its_line(tmp_path: Path) -> None:
    """What only the access log can judge has its place in the file, like every other error."""
    text = _MESH.replace("RESPONSE_CODE%%", "NO_SUCH%%") % {"log": tmp_path / "x"}
    with pytest.raises(ConfigError) as caught:
        make_service(load(text, "mesh.yaml"), reactor=Clock())
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (6, "listeners.web.http.access_log.format")
    assert "NO_SUCH" in problem.message


def test_a_haproxy_endpoint_is_for_http(tmp_path: Path) -> None:
    """On a TCP listener it could not work, and the error says what to write instead."""
    text = (_MESH % {"log": tmp_path / "x"}).replace(
        "raw:\n    listen: 127.0.0.1:0", "raw:\n    listen: 'haproxy:tcp:0'"
    )
    with pytest.raises(ConfigError) as caught:
        make_service(load(text, "mesh.yaml"), reactor=Clock())
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (9, "listeners.raw.listen")
    assert "proxy_protocol: true" in problem.message


def test_a_log_that_cannot_be_opened_binds_nothing(reactor: MeshReactor, tmp_path: Path) -> None:
    """The error names the path, and the ports are free again."""
    path = tmp_path / "missing" / "access.log"
    service = make_service(load(_MESH % {"log": path}, "mesh.yaml"), reactor=reactor)
    with pytest.raises(MeshproxyError, match="missing/access.log' cannot be opened: No such file"):
        service.privilegedStartService()
    assert not reactor.getReaders() or all(
        not hasattr(reader, "bound") for reader in reactor.getReaders()
    )


def test_a_twisted_description_listens(reactor: MeshReactor, tmp_path: Path) -> None:
    """A listener may be any Twisted endpoint that binds at once; a bad one is a clear error."""
    text = _MESH % {"log": tmp_path / "access.log"}
    good = text.replace("127.0.0.1:0", "'tcp:0:interface=127.0.0.1'", 1)
    service = make_service(load(good, "mesh.yaml"), reactor=reactor)
    service.privilegedStartService()
    service.startService()
    port = int(service.addresses()["web"].rpartition(":")[2])
    answer = _ask(port, reactor, b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    _stopped(service, reactor)


def test_the_descriptor_limit_is_raised() -> None:
    """As many descriptors as the hard limit allows."""
    import resource

    assert raise_descriptor_limit() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]


_FILTERED = (
    f"plugins: [{DROPINS}]\n"
    """\
admin: { listen: 127.0.0.1:0 }
listeners:
  web:
    listen: 127.0.0.1:0
    listener_filters: [t_judge]
    http:
      filters:
        - t_serviced: { word: WORD }
        - t_limit: { requests: 1, keys: [hidden] }
      routes: [respond: { body: fine }]
"""
)


def _events() -> list[str]:
    """What the filters' services did."""
    events: list[str] = sys.modules["twisted.plugins.tested_filters"].EVENTS
    return events


def test_filters_live_with_the_service(reactor: MeshReactor) -> None:
    """Started before the first client and stopped after the last; a request passes the chain."""
    announced: list[list[str]] = []
    loaded = load(_FILTERED, "mesh.yaml")
    _events().clear()
    service = make_service(loaded, lambda _: announced.append(list(_events())), reactor)
    service.privilegedStartService()
    assert _events() == []
    service.startService()
    assert announced == [["start WORD"]]
    port = int(service.addresses()["web"].rpartition(":")[2])
    answer = _ask(port, reactor, b"GET /ok HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    show = service.shown("web", "t_limit")
    assert show is not None
    assert show() == {"seen": 1}
    assert [one["name"] for one in service.filters()] == ["t_judge", "t_serviced", "t_limit"]
    assert "hidden" not in json.dumps(service.configuration())
    assert service.configuration()["listeners"]["web"]["http"]["filters"] == [
        {"t_serviced": {"word": "WORD"}},
        {"t_limit": {"requests": 1, "keys": "***"}},
    ]
    _stopped(service, reactor)
    assert _events() == ["start WORD", "stop WORD"]
    live.turn(reactor)
    assert reactor.getDelayedCalls() == []


def test_a_listeners_filters_stand_at_its_door(
    reactor: MeshReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They judge every connection; who waits for one is closed when the service stops."""
    loaded = load(_FILTERED, "mesh.yaml")
    waiting: list[defer.Deferred[None]] = []

    def accepted(self: Any, connection: Any) -> defer.Deferred[None]:
        waiting.append(defer.Deferred())
        return waiting[-1]

    judge = sys.modules["twisted.plugins.tested_filters"].Judge
    monkeypatch.setattr(judge, "accepted", accepted)
    service = make_service(loaded, reactor=reactor)
    service.privilegedStartService()
    service.startService()
    port = int(service.addresses()["web"].rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        live.turn_until(reactor, lambda: waiting)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        waiting[0].callback(None)
        live.turn_until(reactor, lambda: service.listeners()[0]["connections"] == 1)
        with socket.create_connection(("127.0.0.1", port), 20) as other:
            live.turn_until(reactor, lambda: len(waiting) == 2)
            _stopped(service, reactor)
            assert waiting[1].called
            other.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert other.recv(1) == b""
    live.turn(reactor)
    assert reactor.getDelayedCalls() == []


def test_a_filter_that_does_not_start_binds_nothing(reactor: MeshReactor) -> None:
    """The error names it, and the ports are free again."""
    service = make_service(load(_FILTERED.replace("WORD", "bad"), "mesh.yaml"), reactor=reactor)
    service.privilegedStartService()
    port = int(service.addresses()["web"].rpartition(":")[2])
    with pytest.raises(MeshproxyError, match="'t_serviced' of listener 'web'.*no such luck"):
        service.startService()
    live.turn(reactor)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    assert not service.ready()


def test_filters_that_are_not_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that serves connections, whose plugin denied it, is refused beside a cluster."""
    text = (
        f"plugins: [{DROPINS}]\n"
        "listeners: { raw: { listen: ':0', tcp: { to: a, filters: [t_judge] } } }\n"
        "clusters: { a: { endpoints: ['127.0.0.1:9'] } }\n"
    )
    loaded = load(text, "mesh.yaml")
    tcp = loaded.configuration.listeners["raw"].tcp
    assert tcp is not None
    (item,) = tcp.filters
    server = sys.modules["twisted.plugins.tested_filters"].Serve
    monkeypatch.setattr(item.factory, "create", lambda options: server())
    with pytest.raises(ConfigError) as caught:
        make_service(loaded, reactor=Clock())
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (2, "listeners.raw.tcp.filters")


def test_what_a_filter_refuses_has_its_place() -> None:
    """Making the service makes every filter, of all listeners, before anything is bound."""
    text = _FILTERED.replace("requests: 1,", "requests: 13,")
    with pytest.raises(ConfigError) as caught:
        make_service(load(text, "mesh.yaml"), reactor=Clock())
    (problem,) = caught.value.problems
    assert (problem.line, problem.path) == (10, "listeners.web.http.filters[1].t_limit")
