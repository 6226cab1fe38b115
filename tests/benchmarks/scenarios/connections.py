"""Short TCP connections: connect, one small exchange, close; the log is on.

A unit is one connection.  The exchange is an HTTP request with ``Connection: close``, which the
proxy does not know; wrk opens a new connection for each.  Latency is that of the exchange,
connecting excluded, as wrk measures it.
"""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Settings
from tests.benchmarks.figures import Report
from tests.benchmarks.scenarios.wrk_rounds import columns, measure

COLUMNS = columns("connection")
GOALS = {"envoy": 0.7, "haproxy": 1.6}


def run(settings: Settings) -> Report:
    """Measure every proxy in every round; raises StartError or LoadError."""
    with Bench(settings) as bench:
        plan = bench.small_backend()
        samples = measure(bench, plan, ["/"], closing=True)
        return Report(
            "connections",
            f"short TCP connections, {settings.connections} at a time, "
            f"{settings.rounds} rounds of {settings.seconds:g} s",
            next(iter(samples)),
            COLUMNS,
            samples,
            bench.versions,
            bench.skipped,
            GOALS,
            {
                "rounds": settings.rounds,
                "seconds": settings.seconds,
                "connections": settings.connections,
            },
        )
