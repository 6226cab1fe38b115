"""HAProxy, in variants where one setting decides: each is measured, so that none is chosen for it.

For HTTP its routes are a hundred ACLs (haproxy-acl) or one map (haproxy-map, and haproxy where
there is TLS); for bulk TCP it guesses when to splice (haproxy, ``option splice-auto``) or always
does (haproxy-splice).

HAProxy writes no file itself: its log goes to its standard output, which is a file here,
unbuffered; sending it to a syslog server, its other way, costs it a system call a line as well.
"""

from __future__ import annotations

import subprocess
from shutil import which

from tests.benchmarks.plan import (
    CONNECT_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_CONNECTIONS,
    POOL_CONNECTIONS,
    REQUEST_TIMEOUT,
    STREAM_IDLE_TIMEOUT,
    HttpPlan,
    Identity,
    Launch,
    Place,
    Plan,
    TcpPlan,
)
from tests.benchmarks.process import HOST

_ACL = "haproxy-acl"
_SPLICE = "haproxy-splice"
# ``option httplog``'s own format with the request id added.
_LOG_FORMAT = (
    "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc "
    "%sq/%bq %hr %hs %{+Q}r %ID"
)


class HAProxy:
    """``name`` is the variant."""

    def __init__(self, name: str):
        self.name = name

    def missing(self, plan: Plan) -> str | None:
        """HAProxy serves every plan; it only has to be there."""
        return None if which("haproxy") else "not installed (apt install haproxy)"

    def version(self) -> str:
        """The third word of ``haproxy -v``."""
        finished = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=False)
        words = finished.stdout.split()
        return words[2] if len(words) > 2 else "of unknown version"

    def launch(self, plan: Plan, place: Place) -> Launch:
        """One thread, in the foreground."""
        files = {"haproxy.cfg": configuration(plan, place, self.name)}
        if isinstance(plan, HttpPlan) and self.name != _ACL:
            files["routes.map"] = "".join(
                f"{route.prefix} {route.cluster}\n" for route in plan.routes
            )
        return Launch(("haproxy", "-db", "-f", str(place.directory / "haproxy.cfg")), files)


def configuration(plan: Plan, place: Place, name: str) -> str:
    """The plan as haproxy.cfg; ``name`` is the variant."""
    head = (
        "global\n"
        "    nbthread 1\n"
        f"    maxconn {MAX_CONNECTIONS}\n"
        "    log stdout format raw local0\n"
        f"    stats socket {place.directory / 'admin.sock'}\n"
        "defaults\n"
        "    log global\n"
        f"    timeout connect {CONNECT_TIMEOUT}s\n"
    )
    statistics = (
        "listen statistics\n"
        "    mode http\n"
        f"    bind {HOST}:{place.admin}\n"
        f"    timeout client {REQUEST_TIMEOUT}s\n"
        f"    timeout server {REQUEST_TIMEOUT}s\n"
        "    stats enable\n"
        "    stats uri /\n"
    )
    body = _http(plan, place, name) if isinstance(plan, HttpPlan) else _tcp(plan, place, name)
    return head + body + statistics


def _bind(identity: Identity | None, alpn: str = "") -> str:
    """What follows an address that speaks TLS to clients."""
    return f" ssl crt {identity.both} ssl-min-ver TLSv1.2{alpn}" if identity else ""


def _server(identity: Identity | None) -> str:
    """What follows the address of an upstream that is spoken TLS to."""
    if identity is None:
        return ""
    return (
        f" ssl verify required ca-file {identity.authority} sni str({identity.name})"
        f" verifyhost {identity.name}"
    )


def _http(plan: HttpPlan, place: Place, name: str) -> str:
    if name != _ACL:
        routes = f"    use_backend %[path,map_beg({place.directory / 'routes.map'})]\n"
    else:
        numbered = list(enumerate(plan.routes))
        routes = "".join(
            f"    acl route{number} path_beg {route.prefix}\n" for number, route in numbered
        )
        routes += "".join(
            f"    use_backend {route.cluster} if route{number}\n" for number, route in numbered
        )
    frontend = (
        "frontend bench\n"
        "    mode http\n"
        f"    bind {HOST}:{place.port}{_bind(plan.terminate, ' alpn http/1.1')}\n"
        # A connection without a request is no error, and no line of the log, in its peers either.
        "    option http-ignore-probes\n"
        f"    timeout client {STREAM_IDLE_TIMEOUT}s\n"
        f"    timeout http-request {REQUEST_TIMEOUT}s\n"
        f"    timeout http-keep-alive {IDLE_TIMEOUT}s\n"
        "    option forwardfor\n"
        f"    http-request set-header X-Forwarded-Proto {'https' if plan.terminate else 'http'}\n"
        "    unique-id-format %[uuid()]\n"
        "    unique-id-header X-Request-ID\n"
        "    capture request header Host len 64\n"
        "    capture request header User-Agent len 128\n"
        f'    log-format "{_LOG_FORMAT}"\n'
        f"{routes}"
        "    default_backend none\n"
        "backend none\n"
        "    mode http\n"
        f"    timeout server {REQUEST_TIMEOUT}s\n"
        "    http-request return status 404\n"
    )
    backends = "".join(
        f"backend {cluster}\n"
        "    mode http\n"
        "    http-reuse always\n"
        f"    timeout server {REQUEST_TIMEOUT}s\n"
        f"    server one {HOST}:{port} maxconn {POOL_CONNECTIONS} pool-purge-delay 60s"
        f"{_server(plan.originate)}\n"
        for cluster, port in plan.clusters.items()
    )
    return frontend + backends


def _tcp(plan: TcpPlan, place: Place, name: str) -> str:
    if name == _SPLICE:
        splice = "    option splice-request\n    option splice-response\n"
    else:
        splice = "    option splice-auto\n"
    return (
        "listen bench\n"
        "    mode tcp\n"
        f"    bind {HOST}:{place.port}{_bind(plan.terminate)}\n"
        "    option tcplog\n"
        f"{splice}"
        f"    timeout client {IDLE_TIMEOUT}s\n"
        f"    timeout server {IDLE_TIMEOUT}s\n"
        f"    server one {HOST}:{plan.backend}\n"
    )
