"""HTTP/1.1 requests: keep-alive on both sides, a hundred routes, every feature of the plan on.

A unit is one request answered with 200; no two requests of a run are the same.
"""

from __future__ import annotations

from tests.benchmarks.bench import Bench, Settings
from tests.benchmarks.figures import Report
from tests.benchmarks.plan import asked_prefixes
from tests.benchmarks.scenarios.wrk_rounds import columns, measure

COLUMNS = columns("request")
GOALS = {"envoy": 0.50, "haproxy-acl": 1.2, "haproxy-map": 1.6, "nginx": 1.8}


def run(settings: Settings) -> Report:
    """Measure every proxy in every round; raises StartError or LoadError."""
    with Bench(settings) as bench:
        plan = bench.http_backend()
        asked = asked_prefixes(plan)
        samples = measure(bench, plan, asked, closing=False)
        return Report(
            "http",
            f"HTTP/1.1, keep-alive, {settings.connections} connections, {len(plan.routes)} routes "
            f"({len(asked)} of them asked), {settings.rounds} rounds of {settings.seconds:g} s",
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
