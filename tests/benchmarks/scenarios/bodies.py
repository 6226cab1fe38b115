"""Bodies of megabytes in HTTP/1.1, with TLS on one side: downloads, then uploads.

A unit is a gigabyte (10**9 bytes) of bodies.  The two directions have half of a round's seconds
each and are never mixed; the cost is the mean of the two costs.  An upload counts when it was
answered, and the backend answers when it has all of it: what is under way at the end is lost, at
most one body a connection.
"""

from __future__ import annotations

from tests.benchmarks import wrk
from tests.benchmarks.bench import Bench, Settings, measured
from tests.benchmarks.figures import Column, Report, Sample, interleave
from tests.benchmarks.identity import CIPHER
from tests.benchmarks.probe import probe_bodies
from tests.benchmarks.process import StartError

COLUMNS = (
    Column("cost", "CPU s/GB", 3),
    Column("rate", "GB/s", 2),
    Column("down", "down s/GB", 3),
    Column("up", "up s/GB", 3),
    Column("rss_mib", "RSS MiB"),
    Column("busy_percent", "busy %", 0),
)
GOALS = {"envoy": 1.1, "nginx": 0.8}
SIZE = 4 << 20
CONNECTIONS = 4
_GB = 1e9


def terminate(settings: Settings) -> Report:
    """TLS towards clients; raises StartError or LoadError."""
    return _run(settings, "tls-bulk", "towards clients", clients=True)


def originate(settings: Settings) -> Report:
    """TLS towards upstreams; raises StartError or LoadError."""
    return _run(settings, "tls-upstream-bulk", "towards upstreams", clients=False)


def _run(settings: Settings, title: str, side: str, *, clients: bool) -> Report:
    if reason := wrk.missing():
        raise StartError(reason)
    count = min(settings.connections, CONNECTIONS)
    with Bench(settings) as bench:
        identity = bench.identity()
        if clients:
            plan = bench.bodies_backend(terminate=identity)
        else:
            plan = bench.bodies_backend(originate=identity)
        names = bench.competitors(plan)
        running = {name: bench.start(name, plan) for name in names}

        def load(name: str, seconds: float, *, up: bool) -> wrk.Result:
            return wrk.run(
                running[name].port,
                seconds=seconds,
                connections=count,
                pinned=bench.load_cores,
                arguments=["up" if up else "down", str(SIZE)],
                script=wrk.BODIES,
                offer=bench.offer if plan.terminate else None,
            )

        def one_way(name: str, *, up: bool) -> Sample:
            before = running[name].cpu_seconds()
            result = load(name, settings.seconds / 2, up=up)
            moved = result.requests * SIZE if up else result.bytes
            return measured(running[name], moved / _GB, before, result.seconds, 1.0)

        def measure(name: str, round_number: int) -> Sample:
            down, up = one_way(name, up=False), one_way(name, up=True)
            mean = {key: (down[key] + up[key]) / 2 for key in down}
            return {**mean, "down": down["cost"], "up": up["cost"]}

        for name in names:
            probe_bodies(running[name], SIZE, plan.terminate)
            load(name, 1.0, up=False)
            load(name, 1.0, up=True)
        return Report(
            title,
            f"HTTP/1.1, TLS 1.3 {side} ({CIPHER}), bodies of {SIZE >> 20} MiB, "
            f"{count} connections, {settings.rounds} rounds of {settings.seconds:g} s",
            names[0],
            COLUMNS,
            interleave(names, settings.rounds, measure),
            bench.versions,
            bench.skipped,
            GOALS if clients else {},
            {
                "rounds": settings.rounds,
                "seconds": settings.seconds,
                "connections": count,
                "size": SIZE,
            },
        )
