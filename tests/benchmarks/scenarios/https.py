"""HTTP/1.1 requests as in ``http``, with TLS on one side: towards clients, or towards upstreams.

A unit is one request answered with 200 over connections that were there before: it is the records
that cost here, not the handshakes.  Upstreams are verified, by every proxy.
"""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Settings
from tests.benchmarks.figures import Report
from tests.benchmarks.identity import CIPHER
from tests.benchmarks.plan import asked_prefixes
from tests.benchmarks.scenarios.wrk_rounds import columns, measure

COLUMNS = columns("request")


def terminate(settings: Settings) -> Report:
    """TLS towards clients; raises StartError or LoadError."""
    return _run(settings, "tls-http", "towards clients", clients=True)


def originate(settings: Settings) -> Report:
    """TLS towards upstreams; raises StartError or LoadError."""
    return _run(settings, "tls-upstream", "towards upstreams", clients=False)


def _run(settings: Settings, name: str, side: str, *, clients: bool) -> Report:
    with Bench(settings) as bench:
        identity = bench.identity()
        if clients:
            plan = bench.http_backend(terminate=identity)
        else:
            plan = bench.http_backend(originate=identity)
        asked = asked_prefixes(plan)
        samples = measure(bench, plan, asked, closing=False)
        return Report(
            name,
            f"HTTP/1.1, TLS 1.3 {side} ({CIPHER}), keep-alive, {settings.connections} connections, "
            f"{len(plan.routes)} routes, {settings.rounds} rounds of {settings.seconds:g} s",
            next(iter(samples)),
            COLUMNS,
            samples,
            bench.versions,
            bench.skipped,
            {},
            {
                "rounds": settings.rounds,
                "seconds": settings.seconds,
                "connections": settings.connections,
            },
        )
