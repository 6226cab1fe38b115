"""TLS 1.3 handshakes: a new connection each, closed by the client when its handshake is over.

A unit is one handshake, with the accepting, the tickets and the closing that belong to it and no
request.  Full ones, with a key of either kind, and ones that resume a session; each proxy has its
tickets on.  A CPU second does 1,000,000 / cost of them.

BoringSSL's servers send their tickets with the first data, so that Envoy is spared it here.
Short connections, that ask for something once, make up for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.bench import Bench, Settings, measured
from tests.benchmarks.clients import handshake_load
from tests.benchmarks.figures import Column, Report, Sample, interleave
from tests.benchmarks.identity import CIPHER, GROUP
from tests.benchmarks.plan import asked_prefixes
from tests.benchmarks.probe import probe_http

if TYPE_CHECKING:
    from tests.benchmarks.identity import Kind

COLUMNS = (
    Column("cost", "CPU µs/handshake"),
    Column("per_cpu_second", "handshakes/CPU s", 0),
    Column("rate", "handshakes/s", 0),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
    Column("rss_mib", "RSS MiB"),
    Column("busy_percent", "busy %", 0),
)
GOALS = {"envoy": 1.25, "haproxy": 1.0}
_MICROSECONDS = 1e6
_WARM_UP_SECONDS = 0.5
_MOST_PROCESSES = 4
_NAMES = {"ec": "ECDSA P-256", "rsa": "RSA 2048"}


def ecdsa(settings: Settings) -> Report:
    """Full handshakes, ECDSA P-256; raises StartError or LoadError."""
    return _run(settings, "tls-handshakes", "ec")


def rsa(settings: Settings) -> Report:
    """Full handshakes, RSA 2048; raises StartError or LoadError."""
    return _run(settings, "tls-handshakes-rsa", "rsa")


def resumed(settings: Settings) -> Report:
    """Handshakes that resume a session; raises StartError or LoadError."""
    return _run(settings, "tls-resumed", "ec", resume=True)


def connections(settings: Settings) -> Report:
    """Full handshakes with one request each; raises StartError or LoadError."""
    return _run(settings, "tls-connections", "ec", ask=True)


def _run(
    settings: Settings, title: str, kind: Kind, *, resume: bool = False, ask: bool = False
) -> Report:
    with Bench(settings) as bench:
        identity = bench.identity(kind)
        plan = bench.http_backend(terminate=identity)
        names = bench.competitors(plan)
        running = {name: bench.start(name, plan) for name in names}
        processes = min(len(bench.load_cores), _MOST_PROCESSES)

        def load(name: str, seconds: float) -> dict[str, float]:
            return handshake_load(
                running[name],
                seconds,
                settings.connections,
                secured=identity,
                offer=bench.offer,
                resume=resume,
                path=f"{plan.routes[len(plan.routes) // 2].prefix}items/1" if ask else "",
                processes=processes,
            )

        def measure(name: str, round_number: int) -> Sample:
            before = running[name].cpu_seconds()
            result = load(name, settings.seconds)
            figures = measured(
                running[name], result["handshakes"], before, result["seconds"], _MICROSECONDS
            )
            return {
                **figures,
                "per_cpu_second": _MICROSECONDS / figures["cost"],
                "p50_ms": result["p50_ms"],
                "p99_ms": result["p99_ms"],
            }

        for name in names:
            probe_http(running[name], asked_prefixes(plan), identity)
            load(name, _WARM_UP_SECONDS)
        return Report(
            title,
            f"{'resumed' if resume else 'full'} TLS 1.3 handshakes"
            f"{', each with a request' if ask else ''}, {_NAMES[kind]}, {GROUP}, "
            f"{CIPHER}, {settings.connections} at a time, "
            f"{settings.rounds} rounds of {settings.seconds:g} s",
            names[0],
            COLUMNS,
            interleave(names, settings.rounds, measure),
            bench.versions,
            bench.skipped,
            {} if resume or ask else GOALS,
            {
                "rounds": settings.rounds,
                "seconds": settings.seconds,
                "connections": settings.connections,
            },
        )
