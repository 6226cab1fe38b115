"""The bench: a temporary directory, the processes started in it, and their end.

Used as a context manager; leaving it, in whatever way, ends every process and removes the
directory. A process that does not start, or ends under load, is quoted in the error that says
so.
"""

from __future__ import annotations

import contextlib
import os
import resource
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.benchmarks import backend, identity, proxies
from tests.benchmarks.plan import (
    CLUSTER_COUNT,
    HttpPlan,
    Identity,
    Launch,
    Place,
    Plan,
    Proxy,
    Route,
    TcpPlan,
    http_plan,
)
from tests.benchmarks.process import Running, StartError, cores, free_port
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from tests.benchmarks.figures import Sample

_ENOUGH_DESCRIPTORS = 65536  # where there is no limit


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line chose.  ``seconds`` is one proxy's load in one round."""

    rounds: int = 6
    seconds: float = 3.0
    connections: int = 32
    idle_connections: int = 2000
    peers: Sequence[str] = field(default_factory=lambda: proxies.PEER_NAMES)
    meshproxy: bool = True


class Bench:
    """Starts backends and proxies; ``versions`` and ``skipped`` tell of the proxies."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.proxy_cores, self.load_cores = cores()
        self.versions: dict[str, str] = {}
        self.skipped: dict[str, str] = {}
        self._stack = contextlib.ExitStack()
        self.directory = Path()
        self.offer: Mapping[str, str] = {}
        self._started = 0
        self._proxies: dict[str, Proxy] = {}

    def __enter__(self) -> Self:
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="meshproxy-bench-"))
        )
        self.offer = identity.offer(self.directory)
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.load_cores)  # this process is load too
        self._stack.callback(os.sched_setaffinity, 0, before)
        raise_descriptor_limit()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def run(self, name: str, launch: Launch, directory: Path, port: int, *, proxy: bool) -> Running:
        """Start a process on the proxy's or the load's cores; it serves when this returns."""
        running = Running(
            name, launch, directory, port, self.proxy_cores if proxy else self.load_cores
        )
        self._stack.callback(running.stop)
        running.wait_until_serving()
        return running

    def identity(self, kind: identity.Kind = "ec") -> Identity:
        """A certificate in the bench's directory, with a key of that kind."""
        return identity.make(self.directory, kind)

    def http_backend(
        self, terminate: Identity | None = None, originate: Identity | None = None
    ) -> HttpPlan:
        """Start the HTTP backend; the plan whose clusters are its ports.  Raises StartError."""
        if reason := backend.missing():
            raise StartError(reason)
        ports: list[int] = []
        while len(ports) < CLUSTER_COUNT:
            port = free_port()
            if port not in ports:
                ports.append(port)
        directory = self.directory / "backend"
        self.run(
            "backend", backend.http(directory, ports, originate), directory, ports[0], proxy=False
        )
        return replace(http_plan(ports), terminate=terminate, originate=originate)

    def bodies_backend(
        self, terminate: Identity | None = None, originate: Identity | None = None
    ) -> HttpPlan:
        """Start the backend for bodies; the plan with one route that leads to it."""
        port = free_port()
        launch = backend.bodies(port, originate, self.offer)
        self.run("backend", launch, self.directory / "backend", port, proxy=False)
        route = Route("/bodies/", "bodies")
        return HttpPlan((route,), {"bodies": port}, terminate, originate, bodies=True)

    def small_backend(self) -> TcpPlan:
        """Start the HTTP backend as the upstream of a TCP listener."""
        return TcpPlan(next(iter(self.http_backend().clusters.values())))

    def bulk_backend(self, terminate: Identity | None = None) -> TcpPlan:
        """Start the bulk backend; the plan that leads to it."""
        port = free_port()
        self.run("backend", backend.bulk(port), self.directory / "backend", port, proxy=False)
        return TcpPlan(port, bulk=True, terminate=terminate)

    def competitors(self, plan: Plan) -> list[str]:
        """Names of the proxies that can run the plan; those that cannot are in ``skipped``."""
        self._proxies = {}
        chosen = [proxies.ours()] if self.settings.meshproxy else []
        for proxy in [*chosen, *proxies.peers(plan, self.settings.peers)]:
            if reason := proxy.missing(plan):
                self.skipped[proxy.name] = reason
                continue
            self._proxies[proxy.name] = proxy
            self.versions[proxy.name] = proxy.version()
        if not self._proxies:
            raise StartError("no proxy to measure")
        return list(self._proxies)

    def start(self, name: str, plan: Plan) -> Running:
        """Start one of the competitors on the plan; raises StartError with what it wrote."""
        self._started += 1
        directory = self.directory / f"{name}-{self._started}"
        port = free_port()
        admin = free_port()
        while admin == port:
            admin = free_port()
        launch = self._proxies[name].launch(plan, Place(directory, port, admin))
        return self.run(name, launch, directory, port, proxy=True)


def raise_descriptor_limit() -> int:
    """Raise the limit of open files, the children's too, as far as allowed; that limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = _ENOUGH_DESCRIPTORS
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    return hard


def measured(
    running: Running, units: float, cpu_before: float, seconds: float, scale: float
) -> Sample:
    """The figures of every scenario: cost (CPU seconds a unit x ``scale``), load, memory."""
    if not running.alive():
        raise LoadError(f"{running.name} ended under load\n{running.tail()}")
    cpu = running.cpu_seconds() - cpu_before
    return {
        "cost": cpu / units * scale,
        "rate": units / seconds,
        "busy_percent": 100 * cpu / seconds,
        "rss_mib": running.rss_bytes() / 2**20,
    }
