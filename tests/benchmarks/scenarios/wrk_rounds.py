"""What the scenarios loaded by wrk share: their columns, their warm-up, their rounds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks import wrk
from tests.benchmarks.bench import Bench, measured
from tests.benchmarks.figures import Column, Sample, Samples, interleave
from tests.benchmarks.plan import HttpPlan, Plan
from tests.benchmarks.probe import probe_http
from tests.benchmarks.process import StartError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WARM_UP_SECONDS = 1.0
_MICROSECONDS = 1e6


def columns(unit: str) -> tuple[Column, ...]:
    """The figures of a scenario whose unit is a request or a connection."""
    return (
        Column("cost", f"CPU µs/{unit}"),
        Column("rate", f"{unit}s/s", 0),
        Column("p50_ms", "p50 ms", 2),
        Column("p99_ms", "p99 ms", 2),
        Column("rss_mib", "RSS MiB"),
        Column("busy_percent", "busy %", 0),
    )


def measure(bench: Bench, plan: Plan, prefixes: Sequence[str], *, closing: bool) -> Samples:
    """Start every proxy, see each route answered, warm up, measure in every round.

    Raises StartError when something cannot be started, LoadError when any request fails.
    """
    if reason := wrk.missing():
        raise StartError(reason)
    settings = bench.settings
    names = bench.competitors(plan)
    running = {name: bench.start(name, plan) for name in names}
    routes = [route.prefix for route in plan.routes] if isinstance(plan, HttpPlan) else prefixes
    arguments = ["close" if closing else "keep-alive", *prefixes]

    def load(name: str, seconds: float) -> wrk.Result:
        return wrk.run(
            running[name].port,
            seconds=seconds,
            connections=settings.connections,
            pinned=bench.load_cores,
            arguments=arguments,
            offer=bench.offer if plan.terminate else None,
        )

    def sample(name: str, round_number: int) -> Sample:
        before = running[name].cpu_seconds()
        result = load(name, settings.seconds)
        figures = measured(running[name], result.requests, before, result.seconds, _MICROSECONDS)
        return {**figures, "p50_ms": result.p50_ms, "p99_ms": result.p99_ms}

    for name in names:
        probe_http(running[name], routes, plan.terminate)
        load(name, _WARM_UP_SECONDS)
    return interleave(names, settings.rounds, sample)
