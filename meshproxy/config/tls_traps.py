"""What is allowed and probably not meant where TLS is ended, begun or looked into.

Law: as in `meshproxy.config.lint`, which these belong to: each is a trap that someone falls into,
and says what happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from meshproxy.config.cluster import Cluster
from meshproxy.config.http import Http
from meshproxy.config.match import RequestTls
from meshproxy.config.model import Configuration, Listener
from meshproxy.config.place import Path, render
from meshproxy.config.shadow import shadowed_hellos
from meshproxy.config.tls import ListenerTls, PassThrough, TcpRoute
from meshproxy.config.traps import subset_traps

__all__ = ["cluster_tls_traps", "listener_tls_traps", "request_tls_traps", "tcp_route_traps"]

_Doubt = tuple[Path, str]

_HTTPS = 443
_KEY_LOG = "whoever reads this file can decrypt all that is captured"


def listener_tls_traps(
    configuration: Configuration, listener: Listener, path: Path
) -> Iterator[_Doubt]:
    """Yield what is doubtful in the `tls` of one listener."""
    tls = listener.tls
    if tls is None:
        return
    here: Path = (*path, "tls")
    if tls.key_log is not None:
        yield (*here, "key_log"), _KEY_LOG
    yield from _hello_traps(configuration, tls.pass_through, (*here, "pass_through"))
    for index, passed in enumerate(tls.pass_through):
        if not passed.match.alpn and "*" in passed.match.server_names:
            message = "every client is passed through, so the certificates are never shown"
            yield (*here, "pass_through", index), message
            break


def _hello_traps(
    configuration: Configuration, routes: Sequence[TcpRoute | PassThrough], path: Path
) -> Iterator[_Doubt]:
    """Yield what is doubtful in routes by a ClientHello that is not taken."""
    yield from _never(routes, path)
    for index, route in enumerate(routes):
        if route.match is None:
            continue
        for name in route.to:
            if configuration.clusters[name].tls is not None:
                yield (
                    (*path, index, "to"),
                    f"what comes is TLS already, and '{name}' has 'tls': TLS inside TLS is sent",
                )


def tcp_route_traps(
    configuration: Configuration, listener: Listener, path: Path
) -> Iterator[_Doubt]:
    """Yield what is doubtful in the routes of a TCP listener."""
    tcp = listener.tcp
    if tcp is None or not tcp.routes:
        return
    here: Path = (*path, "tcp", "routes")
    if listener.tls is None:
        yield from _hello_traps(configuration, tcp.routes, here)
    else:
        yield from _never(tcp.routes, here)
        yield from _agreed(listener.tls, tcp.routes, here)
    for index, route in enumerate(tcp.routes):
        yield from subset_traps(configuration, route.to, route.subset, (*here, index))


def _never(routes: Sequence[TcpRoute | PassThrough], path: Path) -> Iterator[_Doubt]:
    for index, earlier in shadowed_hellos([route.match for route in routes]).items():
        place = render((*path, earlier))
        yield (*path, index), f"this is never reached: {place} takes all that it would"


def _agreed(tls: ListenerTls, routes: Sequence[TcpRoute], path: Path) -> Iterator[_Doubt]:
    """Yield protocols that no client agrees on with a listener that ends its TLS."""
    for index, route in enumerate(routes):
        if (
            route.match is not None
            and route.match.alpn
            and not {*route.match.alpn} & {*(tls.alpn or ())}
        ):
            yield (
                (*path, index, "match", "alpn"),
                "'tls.alpn' of this listener has none of these, so no client agrees on one",
            )


def request_tls_traps(listener: Listener, http: Http, path: Path) -> Iterator[_Doubt]:
    """Yield what is asked of clients' TLS where there is none, or of certificates likewise."""
    ended = listener.tls is not None
    asked = listener.tls is not None and listener.tls.client_ca is not None
    if http.x_forwarded_client_cert.mode != "sanitize" and not asked:
        mode = http.x_forwarded_client_cert.mode
        yield (
            (*path, "x_forwarded_client_cert"),
            f"without tls.client_ca no client shows a certificate, so '{mode}' only removes it",
        )
    tables = [((*path, "routes"), http.routes)]
    for host, inner in http.hosts.items():
        tables.append(((*path, "hosts", host, "routes"), inner.routes))
    for at, routes in tables:
        for index, route in enumerate(routes):
            match = route.match.tls
            if match is not None and not ended:
                yield (*at, index, "match", "tls"), "this listener has no 'tls': it never matches"
            elif match is not None and not asked and _of_certificate(match):
                yield (
                    (*at, index, "match", "tls"),
                    "without tls.client_ca no client shows a certificate: it never matches",
                )


def _of_certificate(match: RequestTls) -> bool:
    return bool(match.client_certificate) or match.subject is not None or match.san is not None


def cluster_tls_traps(cluster: Cluster, path: Path, by_http: bool) -> Iterator[_Doubt]:
    """Yield what is doubtful in a cluster's `tls`, or in that it has none."""
    tls = cluster.tls
    if tls is not None:
        here: Path = (*path, "tls")
        if not tls.verify:
            yield (
                (*here, "verify"),
                "whoever has the pinned key is trusted, whatever its certificate says"
                if tls.pins
                else "whoever answers is trusted, so that anybody on the way can read and change "
                "everything",
            )
        if tls.key_log is not None:
            yield (*here, "key_log"), _KEY_LOG
        return
    for index, endpoint in enumerate(cluster.endpoints if by_http else ()):
        if endpoint.address is not None and endpoint.address.port == _HTTPS:
            yield (
                (*path, "endpoints", index),
                "port 443 is that of HTTPS, and without 'tls' plain HTTP is sent there",
            )
