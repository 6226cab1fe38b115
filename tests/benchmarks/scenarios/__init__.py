"""The scenarios, one a module: each has ``run(settings) -> Report`` and states what it measures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.scenarios import bodies, connections, handshakes, http, https, idle, tcp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.benchmarks.bench import Settings
    from tests.benchmarks.figures import Report

SCENARIOS: Mapping[str, Callable[[Settings], Report]] = {
    "http": http.run,
    "tcp": tcp.run,
    "connections": connections.run,
    "idle": idle.run,
    "tls-handshakes": handshakes.ecdsa,
    "tls-handshakes-rsa": handshakes.rsa,
    "tls-resumed": handshakes.resumed,
    "tls-connections": handshakes.connections,
    "tls-http": https.terminate,
    "tls-bulk": bodies.terminate,
    "tls-tcp": tcp.secured,
    "tls-idle": idle.secured,
    "tls-upstream": https.originate,
    "tls-upstream-bulk": bodies.originate,
}
