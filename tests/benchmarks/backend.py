"""What stands behind the proxies: nginx with a small body, the bulk server, or that of bodies.

The backend is never the proxy under test: it has cores of its own, and costs as little as it can.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.benchmarks.identity import CIPHER, GROUP
from tests.benchmarks.plan import Launch
from tests.benchmarks.process import HOST
from tests.benchmarks.proxies.meshproxy import ROOT
from tests.benchmarks.proxies.nginx import ENDLESS, build, launch, main_context, temporary_paths

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.benchmarks.plan import Identity

BODY = (
    '{"id": 12345, "name": "a thing of some kind", "price": {"amount": 1999, "currency": "EUR"}, '
    '"tags": ["small", "blue", "new"], "stock": 17, "updated": "2024-05-17T08:30:00Z", '
    '"seller": "acme"}'
)


def missing() -> str | None:
    """Why the HTTP backend cannot run here, or None."""
    return None if build() else "the backend, nginx, is not installed (apt install nginx)"


def http_configuration(ports: Sequence[int], identity: Identity | None = None) -> str:
    """nginx.conf for one worker that answers every GET on every port with BODY and six headers."""
    ssl = " ssl" if identity else ""
    listens = "".join(f"        listen {HOST}:{port}{ssl} backlog=1024;\n" for port in ports)
    secured = ""
    if identity:
        secured = (
            f"    ssl_certificate {identity.chain};\n"
            f"    ssl_certificate_key {identity.key};\n"
            "    ssl_protocols TLSv1.3;\n"
            f"    ssl_ecdh_curve {GROUP};\n"
            f"    ssl_conf_command Ciphersuites {CIPHER};\n"
        )
    return (
        f"{main_context()}"
        "http {\n"
        f"{temporary_paths()}"
        "    access_log off;\n"
        "    keepalive_timeout 1h;\n"
        f"    keepalive_requests {ENDLESS};\n"
        "    default_type application/json;\n"
        f"{secured}"
        "    server {\n"
        f"{listens}"
        "        location / {\n"
        "            add_header Cache-Control 'max-age=60, public';\n"
        "            add_header Vary Accept-Encoding;\n"
        "            add_header X-Content-Type-Options nosniff;\n"
        f"            return 200 '{BODY}';\n"
        "        }\n"
        "    }\n"
        "}\n"
    )


def http(directory: Path, ports: Sequence[int], identity: Identity | None = None) -> Launch:
    """The HTTP backend on ``ports``, over TLS if it has an identity."""
    return launch(directory, http_configuration(ports, identity))


def bodies(port: int, identity: Identity | None, offer: Mapping[str, str]) -> Launch:
    """The backend for bodies on ``port``; over TLS, with an identity, it agrees to ``offer``."""
    certificate = ("--certificate", str(identity.both)) if identity else ()
    argv = (
        sys.executable, "-m", "tests.benchmarks.load.body_server", "--port", str(port), *certificate
    )  # fmt: skip
    return Launch(argv, {}, {"PYTHONPATH": str(ROOT), **offer})


def bulk(port: int) -> Launch:
    """The bulk TCP backend on ``port``."""
    argv = (sys.executable, "-m", "tests.benchmarks.load.bulk_server", "--port", str(port))
    return Launch(argv, {}, {"PYTHONPATH": str(ROOT)})
