"""Each proxy's configuration holds the whole plan, and the proxy itself accepts it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from meshproxy.config import load
from tests.benchmarks import identity
from tests.benchmarks.plan import HttpPlan, Identity, Launch, Place, Plan, Proxy, TcpPlan, http_plan
from tests.benchmarks.process import HOST, Running, cores, free_port
from tests.benchmarks.proxies import PEER_NAMES, envoy, haproxy, meshproxy, nginx, ours, peers

if TYPE_CHECKING:
    from pathlib import Path

HTTP = http_plan([9001, 9002, 9003, 9004])
BULK = TcpPlan(9005, bulk=True)
SHORT = TcpPlan(9005)
PLANS = ["http", "bulk", "http in", "http out", "bodies out", "bulk in"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Who speaks TLS, on either side."""
    return identity.make(tmp_path_factory.mktemp("identity"), "ec")


@pytest.fixture
def plan(request: pytest.FixtureRequest, server: Identity) -> Plan:
    """A plan by name: ``in`` and ``out`` have TLS towards clients and upstreams."""
    plans: dict[str, Plan] = {
        "http": HTTP,
        "bulk": BULK,
        "http in": replace(HTTP, terminate=server),
        "http out": replace(HTTP, originate=server),
        "bodies out": replace(HTTP, originate=server, bodies=True),
        "bulk in": replace(BULK, terminate=server),
    }
    return plans[request.param]


def _launch(proxy: Proxy, plan: Plan, directory: Path) -> Launch:
    """The launch, with its files written as Running would."""
    if reason := proxy.missing(plan):
        pytest.skip(f"{proxy.name}: {reason}")
    launch = proxy.launch(plan, Place(directory, free_port(), free_port()))
    for name, text in launch.files.items():
        (directory / name).write_text(text)
    return launch


def _succeeds(argv: list[str]) -> None:
    finished = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


def test_peers_are_told_apart_where_the_plan_tells_them_apart() -> None:
    """HAProxy: ACLs and map for routes, guessing and always splicing for bulk, else once."""
    assert [peer.name for peer in peers(HTTP, PEER_NAMES)] == [
        "envoy",
        "haproxy-acl",
        "haproxy-map",
        "nginx",
        "meshproxy-resilient",
        "meshproxy-filters-1",
        "meshproxy-filters-5",
        "meshproxy-filters-10",
    ]
    assert [peer.name for peer in peers(HTTP, ["haproxy-map"])] == ["haproxy-map"]
    assert [peer.name for peer in peers(BULK, PEER_NAMES)] == [
        "envoy",
        "haproxy",
        "haproxy-splice",
        "nginx",
    ]
    assert [peer.name for peer in peers(SHORT, ["haproxy-acl"])] == ["haproxy"]
    assert peers(SHORT, []) == []


def test_with_tls_there_is_one_of_each(server: Identity) -> None:
    """No splicing through TLS, one way of routing, and no variants of meshproxy."""
    for plan in (
        replace(HTTP, terminate=server),
        replace(HTTP, originate=server),
        replace(BULK, terminate=server),
    ):
        assert [peer.name for peer in peers(plan, PEER_NAMES)] == ["envoy", "haproxy", "nginx"]
    assert [peer.name for peer in peers(plan, ["haproxy-map"])] == ["haproxy"]
    mapped = haproxy.HAProxy("haproxy").launch(
        replace(HTTP, terminate=server), Place(server.chain.parent, 8080, 8081)
    )
    assert "routes.map" in mapped.files


def test_every_proxy_has_the_same_certificate_and_verifies_upstreams(
    server: Identity, tmp_path: Path
) -> None:
    """Nobody is spared the chain's verification or the name's."""
    place = Place(tmp_path, 8080, 8081)
    inside = replace(HTTP, terminate=server)
    outside = replace(HTTP, originate=server)

    def texts(plan: HttpPlan) -> list[str]:
        return [
            meshproxy.configuration(plan, place),
            json.dumps(envoy.configuration(plan, place)),
            haproxy.configuration(plan, place, "haproxy"),
            nginx.configuration(plan, place),
        ]

    for text in texts(inside):
        assert str(server.chain) in text or str(server.both) in text
        assert str(server.authority) not in text
    for text in texts(outside):
        assert str(server.authority) in text
        assert server.name in text
        assert str(server.chain) not in text
    for text in texts(HTTP):
        assert str(server.chain.parent) not in text


@pytest.mark.parametrize("plan", PLANS, indirect=True)
def test_envoy_accepts_its_configuration(plan: Plan, tmp_path: Path) -> None:
    """``envoy --mode validate`` is content."""
    launch = _launch(envoy.Envoy(), plan, tmp_path)
    _succeeds([*launch.argv, "--mode", "validate"])


@pytest.mark.parametrize(
    ("plan", "name"),
    [
        ("http", "haproxy-acl"),
        ("http", "haproxy-map"),
        ("bulk", "haproxy"),
        ("bulk", "haproxy-splice"),
        ("http in", "haproxy"),
        ("http out", "haproxy"),
        ("bulk in", "haproxy"),
    ],
    indirect=["plan"],
)
def test_haproxy_accepts_its_configuration(plan: Plan, name: str, tmp_path: Path) -> None:
    """``haproxy -c`` is content."""
    launch = _launch(haproxy.HAProxy(name), plan, tmp_path)
    _succeeds([*launch.argv, "-c"])


@pytest.mark.parametrize("plan", PLANS, indirect=True)
def test_nginx_accepts_its_configuration(plan: Plan, tmp_path: Path) -> None:
    """``nginx -t`` is content."""
    launch = _launch(nginx.Nginx(), plan, tmp_path)
    _succeeds([*launch.argv, "-t"])


@pytest.mark.parametrize("plan", PLANS, indirect=True)
def test_meshproxy_accepts_its_configuration(plan: Plan, tmp_path: Path) -> None:
    """The configuration loads, with every route and cluster in it."""
    config = pytest.importorskip("meshproxy.config")
    text = meshproxy.configuration(plan, Place(tmp_path, free_port(), free_port()))
    loaded = config.load(text, "meshproxy.yaml")
    listener = loaded.configuration.listeners["bench"]
    if isinstance(plan, HttpPlan):
        assert len(listener.http.routes) == len(plan.routes)
        assert set(loaded.configuration.clusters) == set(plan.clusters)
        for cluster in loaded.configuration.clusters.values():
            assert bool(cluster.tls) is bool(plan.originate)
    else:
        assert list(listener.tcp.to) == ["upstream"]
    assert bool(listener.tls) is bool(plan.terminate)
    assert loaded.warnings == ()


def test_every_proxy_has_every_route_and_backend(tmp_path: Path) -> None:
    """No proxy is spared a route, the access log, or the request id."""
    place = Place(tmp_path, 8080, 8081)
    texts = {
        "meshproxy": meshproxy.configuration(HTTP, place),
        "envoy": json.dumps(envoy.configuration(HTTP, place)),
        "haproxy": haproxy.configuration(HTTP, place, "haproxy-acl"),
        "nginx": nginx.configuration(HTTP, place),
    }
    for name, text in texts.items():
        for route in HTTP.routes:
            assert route.prefix in text, name
        for port in HTTP.clusters.values():
            assert str(port) in text, name
    for name in ("meshproxy", "envoy", "nginx"):
        assert "access.log" in texts[name]
    assert "log stdout" in texts["haproxy"]
    assert "unique-id-header X-Request-ID" in texts["haproxy"]
    assert "X-Request-ID $request_id" in texts["nginx"]
    assert '"generate_request_id": true' in texts["envoy"]


def test_haproxy_s_map_replaces_its_acls(tmp_path: Path) -> None:
    """The map variant has one rule and a file of all routes; the ACL variant has no map."""
    place = Place(tmp_path, 8080, 8081)
    mapped = haproxy.HAProxy("haproxy-map").launch(HTTP, place)
    listed = haproxy.HAProxy("haproxy-acl").launch(HTTP, place)
    assert len(mapped.files["routes.map"].splitlines()) == len(HTTP.routes)
    assert " acl " not in mapped.files["haproxy.cfg"]
    assert list(listed.files) == ["haproxy.cfg"]


def test_stream_module_is_found_built_in_or_as_a_file(tmp_path: Path) -> None:
    """nginx -V tells where the module would be; a build without it is known as such."""
    assert nginx.stream_module("configure arguments: --with-stream --with-debug") == ""
    described = f"configure arguments: --modules-path={tmp_path} --with-stream=dynamic"
    assert nginx.stream_module(described) is None
    (tmp_path / "ngx_stream_module.so").touch()
    assert nginx.stream_module(described) == f"load_module {tmp_path}/ngx_stream_module.so;\n"


def test_an_absent_peer_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing programs are a reason to show, not an exception."""

    def nothing(name: str, *rest: Any) -> None:
        return None

    for module in (envoy, haproxy, nginx):
        monkeypatch.setattr(module, "which", nothing)
    monkeypatch.setattr("importlib.util.find_spec", nothing)
    others = [name for name in PEER_NAMES if not name.startswith("meshproxy")]
    for peer in peers(HTTP, others):
        reason = peer.missing(HTTP)
        assert reason is not None
        assert "not installed" in reason
    assert ours().missing(HTTP) is None


@pytest.mark.parametrize("name", ["envoy", "haproxy-acl", "haproxy-map", "nginx"])
def test_a_peer_logs_a_request_and_passes_its_id_on(name: str, tmp_path: Path) -> None:
    """What costs is really on: the log has the path and the id, the upstream sees that id."""
    with socket.create_server((HOST, 0)) as upstream:
        upstream.settimeout(10)
        plan = http_plan([upstream.getsockname()[1]])
        (peer,) = peers(plan, [name])
        if reason := peer.missing(plan):
            pytest.skip(reason)
        place = Place(tmp_path / name, free_port(), free_port())
        running = Running(name, peer.launch(plan, place), place.directory, place.port, cores()[0])
        try:
            running.wait_until_serving()
            with socket.create_connection((HOST, place.port), 10) as client:
                client.sendall(
                    f"GET {plan.routes[7].prefix}thing HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                )
                connection, _ = upstream.accept()
                with connection:
                    connection.settimeout(10)
                    head = connection.recv(65536).decode()
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
            # HAProxy writes its line when the exchange is over, and forgets it when stopped first.
            stdout = place.directory / "stdout"
            limit = time.monotonic() + 10
            while name.startswith("haproxy") and f"{plan.routes[7].prefix}thing" not in (
                stdout.read_text()
            ):
                assert time.monotonic() < limit, stdout.read_text()
                time.sleep(0.02)
        finally:
            running.stop()  # which flushes its log
    fields = dict(line.lower().split(": ", 1) for line in head.splitlines() if ": " in line)
    request_id = fields["x-request-id"]
    assert len(request_id) >= 32
    assert "x-forwarded-for" in fields
    assert fields["x-forwarded-proto"] == "http"
    log = "".join(
        file.read_text()
        for file in (place.directory / "access.log", place.directory / "stdout")
        if file.exists()
    )
    assert f"GET {plan.routes[7].prefix}thing" in log
    assert request_id in log


def test_everything_that_keeps_upstreams_up_is_on_in_the_resilient_one(tmp_path: Path) -> None:
    """What is compared with the plain proxy has breaker, checks, limits and retries, as claimed."""
    plan = http_plan([2001, 2002, 2003, 2004])
    place = Place(tmp_path, 1, 2)
    text = meshproxy.configuration(plan, place, resilient=True)
    loaded = load(text, "resilient.yaml")
    assert loaded.warnings == ()
    for cluster in loaded.configuration.clusters.values():
        assert len(cluster.endpoints) == 3
        assert cluster.circuit_breaker is not None
        assert cluster.health_check is not None
        assert cluster.endpoint_limits.rate is not None
    http = loaded.configuration.listeners["bench"].http
    assert http is not None
    assert http.retry is not None
    assert meshproxy.Resilient().missing(SHORT) is not None


def test_the_filtered_ones_have_their_filters(tmp_path: Path) -> None:
    """As many as the name says, in the chain of every request."""
    plan = http_plan([2001, 2002, 2003, 2004])
    for number in (1, 5, 10):
        peer = meshproxy.Filtered(number)
        assert peer.name == f"meshproxy-filters-{number}"
        assert peer.missing(SHORT) is not None
        loaded = load(peer.configuration(plan, Place(tmp_path, 1, 2)), "filters.yaml")
        assert loaded.warnings == ()
        http = loaded.configuration.listeners["bench"].http
        assert http is not None
        assert [item.name for item in http.filters] == ["trivial"] * number
