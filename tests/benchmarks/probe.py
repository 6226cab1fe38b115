"""A look at a proxy before it is measured: does it answer as it should, over what it should?"""

from __future__ import annotations

import contextlib
import http.client
import os
import ssl
from typing import TYPE_CHECKING

from tests.benchmarks import backend, identity
from tests.benchmarks.process import HOST
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.plan import Identity
    from tests.benchmarks.process import Running

_PROBE_SECONDS = 10.0


def connection(running: Running, secured: Identity | None) -> http.client.HTTPConnection:
    """A client's connection to the proxy, not open yet; over TLS the certificate is verified."""
    if secured is None:
        return http.client.HTTPConnection(HOST, running.port, timeout=_PROBE_SECONDS)
    context = ssl.create_default_context(cafile=os.fspath(secured.authority))
    return http.client.HTTPSConnection(HOST, running.port, timeout=_PROBE_SECONDS, context=context)


def probe_http(running: Running, prefixes: Sequence[str], secured: Identity | None = None) -> None:
    """Ask for each prefix once; raises LoadError when an answer is not the backend's.

    ``secured``: over TLS, after a look at what is agreed on.
    """
    if secured:
        identity.check(running, secured)
    with contextlib.closing(connection(running, secured)) as opened:
        for prefix in prefixes:
            opened.request("GET", f"{prefix}probe", headers={"Host": identity.NAME})
            response = opened.getresponse()
            body = response.read()
            if response.status != 200 or body != backend.BODY.encode():
                raise LoadError(
                    f"{running.name} answered {response.status} {body[:200]!r} to {prefix}"
                )


def probe_bodies(running: Running, size: int, secured: Identity | None) -> None:
    """Download and upload ``size`` bytes once; raises LoadError when one got lost."""
    if secured:
        identity.check(running, secured)
    with contextlib.closing(connection(running, secured)) as opened:
        for method, target, body in (
            ("GET", f"/bodies/{size}", None),
            ("PUT", "/bodies/one", bytes(size)),
        ):
            opened.request(method, target, body, headers={"Host": identity.NAME})
            response = opened.getresponse()
            answer = response.read()
            if response.status != 200 or answer != (str(size).encode() if body else bytes(size)):
                raise LoadError(
                    f"{running.name} answered {method} with {response.status} and "
                    f"{len(answer)} bytes: {answer[:200]!r}"
                )
