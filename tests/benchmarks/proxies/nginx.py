"""nginx as a proxy: one worker, a location a route; its stream module for TCP."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
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

ENDLESS = 1_000_000_000  # requests on one connection: nginx alone has such a limit by default


def build() -> str:
    """What ``nginx -V`` says; empty when it is not installed."""
    if which("nginx") is None:
        return ""
    return subprocess.run(["nginx", "-V"], capture_output=True, text=True, check=False).stderr


def stream_module(described: str) -> str | None:
    """The directive that brings the stream module ("" when built in), or None when it is
    not here.
    """
    if re.search(r"--with-stream(\s|$)", described):
        return ""
    found = re.search(r"--modules-path=(\S+)", described)
    module = Path(found[1] if found else "/usr/lib/nginx/modules") / "ngx_stream_module.so"
    return f"load_module {module};\n" if module.is_file() else None


class Nginx:
    """The access log is buffered, as its documentation advises for busy servers."""

    name = "nginx"

    def missing(self, plan: Plan) -> str | None:
        """The program, or for a plan of TCP its stream module, may be absent."""
        described = build()
        if not described:
            return "not installed (apt install nginx)"
        if isinstance(plan, TcpPlan) and stream_module(described) is None:
            return "its stream module is not installed (apt install libnginx-mod-stream)"
        return None

    def version(self) -> str:
        """From the first line of ``nginx -V``."""
        return build().partition("\n")[0].rpartition("/")[2]

    def launch(self, plan: Plan, place: Place) -> Launch:
        """A master and one worker, in the foreground."""
        module = stream_module(build()) or "" if isinstance(plan, TcpPlan) else ""
        return launch(place.directory, configuration(plan, place, module))


def launch(directory: Path, text: str) -> Launch:
    """The command for nginx with everything that it writes inside ``directory``."""
    argv = ("nginx", "-p", f"{directory}/", "-e", "error.log", "-c", str(directory / "nginx.conf"))
    return Launch(argv, {"nginx.conf": text})


def main_context(module: str = "") -> str:
    """The directives before any block: one worker, in the foreground."""
    user = "user root;\n" if os.geteuid() == 0 else ""
    return (
        f"{module}{user}daemon off;\nworker_processes 1;\npid nginx.pid;\n"
        f"worker_rlimit_nofile {2 * MAX_CONNECTIONS + 1000};\n"
        f"events {{ worker_connections {2 * MAX_CONNECTIONS}; multi_accept on; }}\n"
    )


def temporary_paths() -> str:
    """Where an http block may buffer bodies: inside its own directory."""
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return "".join(f"    {name}_temp_path temporary_{name};\n" for name in names)


def configuration(plan: Plan, place: Place, module: str = "") -> str:
    """The plan as nginx.conf; ``module`` is stream_module's directive."""
    if isinstance(plan, HttpPlan):
        return main_context() + _http(plan, place)
    return main_context(module) + _tcp(plan, place)


# Bodies pass through it as they come; by default it writes them to files when one side is slower.
_BODIES = (
    "    proxy_request_buffering off;\n"
    "    proxy_max_temp_file_size 0;\n"
    "    proxy_buffer_size 16k;\n"
    "    proxy_buffers 16 32k;\n"
)


def _terminate(identity: Identity | None) -> str:
    """TLS towards clients; sessions in tickets, which are on by default."""
    if identity is None:
        return ""
    return (
        f"    ssl_certificate {identity.chain};\n"
        f"    ssl_certificate_key {identity.key};\n"
        "    ssl_protocols TLSv1.2 TLSv1.3;\n"
        "    ssl_session_timeout 1d;\n"
    )


def _originate(identity: Identity | None) -> str:
    """TLS towards upstreams, verified; sessions are kept by default."""
    if identity is None:
        return ""
    return (
        "    proxy_ssl_protocols TLSv1.2 TLSv1.3;\n"
        "    proxy_ssl_server_name on;\n"
        f"    proxy_ssl_name {identity.name};\n"
        "    proxy_ssl_verify on;\n"
        f"    proxy_ssl_trusted_certificate {identity.authority};\n"
    )


def _http(plan: HttpPlan, place: Place) -> str:
    upstreams = "".join(
        f"    upstream {name} {{\n"
        f"        server {HOST}:{port} max_conns={POOL_CONNECTIONS};\n"
        f"        keepalive 64;\n"
        f"        keepalive_requests {ENDLESS};\n"
        f"        keepalive_timeout 60s;\n"
        f"    }}\n"
        for name, port in plan.clusters.items()
    )
    scheme = "https" if plan.originate else "http"
    locations = "".join(
        f"        location {route.prefix} {{ proxy_pass {scheme}://{route.cluster}; }}\n"
        for route in plan.routes
    )
    return (
        "http {\n"
        f"{temporary_paths()}"
        "    log_format bench '[$time_iso8601] \"$request\" $status '\n"
        "        '$request_length $body_bytes_sent '\n"
        "        '$request_time $upstream_connect_time '\n"
        "        '$upstream_header_time $upstream_response_time '\n"
        '        \'"$http_x_forwarded_for" "$http_user_agent" "$request_id" "$host" \'\n'
        "        '\"$upstream_addr\" $remote_addr:$remote_port';\n"
        "    access_log access.log bench buffer=64k flush=1s;\n"
        f"    keepalive_timeout {IDLE_TIMEOUT}s;\n"
        f"    keepalive_requests {ENDLESS};\n"
        f"    client_header_timeout {REQUEST_TIMEOUT}s;\n"
        f"    client_body_timeout {STREAM_IDLE_TIMEOUT}s;\n"
        f"    send_timeout {STREAM_IDLE_TIMEOUT}s;\n"
        "    large_client_header_buffers 4 60k;\n"
        "    client_max_body_size 0;\n"
        "    proxy_http_version 1.1;\n"
        "    proxy_set_header Connection '';\n"
        "    proxy_set_header Host $host;\n"
        "    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n"
        "    proxy_set_header X-Forwarded-Proto $scheme;\n"
        "    proxy_set_header X-Request-ID $request_id;\n"
        f"    proxy_connect_timeout {CONNECT_TIMEOUT}s;\n"
        f"    proxy_read_timeout {REQUEST_TIMEOUT}s;\n"
        f"    proxy_send_timeout {REQUEST_TIMEOUT}s;\n"
        f"{_BODIES if plan.bodies else ''}"
        f"{_originate(plan.originate)}"
        f"{upstreams}"
        "    server {\n"
        f"        listen {HOST}:{place.port}{' ssl' if plan.terminate else ''};\n"
        f"{_terminate(plan.terminate)}"
        f"{locations}"
        "        location / { return 404; }\n"
        "    }\n"
        "    server {\n"
        f"        listen {HOST}:{place.admin};\n"
        "        location / { stub_status; }\n"
        "    }\n"
        "}\n"
    )


def _tcp(plan: TcpPlan, place: Place) -> str:
    return (
        "stream {\n"
        "    log_format bench '[$time_iso8601] $protocol $status $bytes_received $bytes_sent '\n"
        "        '$session_time $upstream_connect_time \"$upstream_addr\" '\n"
        "        '$remote_addr:$remote_port';\n"
        "    access_log access.log bench buffer=64k flush=1s;\n"
        f"    proxy_connect_timeout {CONNECT_TIMEOUT}s;\n"
        f"    proxy_timeout {IDLE_TIMEOUT}s;\n"
        "    proxy_half_close on;\n"
        "    proxy_buffer_size 64k;\n"
        f"    upstream one {{ server {HOST}:{plan.backend} max_conns={MAX_CONNECTIONS}; }}\n"
        f"{_terminate(plan.terminate)}"
        f"    server {{ listen {HOST}:{place.port}{' ssl' if plan.terminate else ''}; "
        "proxy_pass one; }\n"
        "}\n"
    )
