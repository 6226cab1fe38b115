"""Bulk TCP: connections that download, then as many that upload, as fast as the proxy lets them.

A unit is a gigabyte (10**9 bytes) that arrived at its receiver.  The two directions have half of
a round's seconds each and are never mixed, since proxies differ in which of the two they let
starve the other; the cost is the mean of the two costs.  With TLS the client's side is encrypted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.benchmarks.bench import Bench, Settings, measured
from tests.benchmarks.clients import bulk_load
from tests.benchmarks.figures import Column, Report, Sample, interleave
from tests.benchmarks.identity import CIPHER, check

if TYPE_CHECKING:
    from collections.abc import Mapping

COLUMNS = (
    Column("cost", "CPU s/GB", 3),
    Column("rate", "GB/s", 2),
    Column("down", "down s/GB", 3),
    Column("up", "up s/GB", 3),
    Column("rss_mib", "RSS MiB"),
    Column("busy_percent", "busy %", 0),
)
GOALS = {"envoy": 0.8, "haproxy": 0.8}
TLS_GOALS = {"envoy": 1.1, "nginx": 0.8}
BULK_CONNECTIONS = 8
_GB = 1e9
_WARM_UP_SECONDS = 0.5


def run(settings: Settings) -> Report:
    """Measure every proxy in every round; raises StartError or LoadError."""
    return _run(settings, "tcp", "bulk TCP", GOALS, tls=False)


def secured(settings: Settings) -> Report:
    """The same through a listener that speaks TLS; raises StartError or LoadError."""
    return _run(settings, "tls-tcp", f"bulk TCP out of TLS 1.3 ({CIPHER})", TLS_GOALS, tls=True)


def _run(
    settings: Settings, title: str, what: str, goals: Mapping[str, float], *, tls: bool
) -> Report:
    count = min(settings.connections, BULK_CONNECTIONS)
    with Bench(settings) as bench:
        plan = bench.bulk_backend(bench.identity() if tls else None)
        names = bench.competitors(plan)
        running = {name: bench.start(name, plan) for name in names}

        def load(name: str, seconds: float, *, up: bool) -> dict[str, float]:
            return bulk_load(
                running[name], seconds, count, up=up, secured=plan.terminate, offer=bench.offer
            )

        def one_way(name: str, *, up: bool) -> Sample:
            before = running[name].cpu_seconds()
            moved = load(name, settings.seconds / 2, up=up)
            return measured(running[name], moved["bytes"] / _GB, before, moved["seconds"], 1.0)

        def measure(name: str, round_number: int) -> Sample:
            down, up = one_way(name, up=False), one_way(name, up=True)
            mean = {key: (down[key] + up[key]) / 2 for key in down}
            return {**mean, "down": down["cost"], "up": up["cost"]}

        for name in names:
            if plan.terminate:
                check(running[name], plan.terminate)
            load(name, _WARM_UP_SECONDS, up=False)
            load(name, _WARM_UP_SECONDS, up=True)
        return Report(
            title,
            f"{what}, {count} connections, {settings.rounds} rounds of {settings.seconds:g} s",
            names[0],
            COLUMNS,
            interleave(names, settings.rounds, measure),
            bench.versions,
            bench.skipped,
            goals,
            {"rounds": settings.rounds, "seconds": settings.seconds, "connections": count},
        )
