"""The bench: a temporary directory, the processes started in it, and their end.

Used as a context manager; leaving it, in whatever way, ends every process and removes the
directory. A process that does not start, or ends under load, is quoted in the error that says
so.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.benchmarks import backend, proxies
from tests.benchmarks.plan import (
    CLUSTER_COUNT,
    HttpPlan,
    Launch,
    Place,
    Plan,
    Proxy,
    TcpPlan,
    http_plan,
)
from tests.benchmarks.process import HOST, Running, StartError, cores, free_port
from tests.benchmarks.proxies.meshproxy import ROOT
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from tests.benchmarks.figures import Sample

_PROBE_SECONDS = 10.0
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
        self._started = 0
        self._proxies: dict[str, Proxy] = {}

    def __enter__(self) -> Self:
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="meshproxy-bench-"))
        )
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

    def http_backend(self) -> HttpPlan:
        """Start the HTTP backend; the plan whose clusters are its ports.  Raises StartError."""
        if reason := backend.missing():
            raise StartError(reason)
        ports: list[int] = []
        while len(ports) < CLUSTER_COUNT:
            port = free_port()
            if port not in ports:
                ports.append(port)
        directory = self.directory / "backend"
        self.run("backend", backend.http(directory, ports), directory, ports[0], proxy=False)
        return http_plan(ports)

    def small_backend(self) -> TcpPlan:
        """Start the HTTP backend as the upstream of a TCP listener."""
        return TcpPlan(next(iter(self.http_backend().clusters.values())))

    def bulk_backend(self) -> TcpPlan:
        """Start the bulk backend; the plan that leads to it."""
        port = free_port()
        self.run("backend", backend.bulk(port), self.directory / "backend", port, proxy=False)
        return TcpPlan(port, bulk=True)

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


def probe_http(running: Running, prefixes: Sequence[str]) -> None:
    """Ask for each prefix once; raises LoadError when an answer is not the backend's."""
    connection = http.client.HTTPConnection(HOST, running.port, timeout=_PROBE_SECONDS)
    with contextlib.closing(connection):
        for prefix in prefixes:
            connection.request("GET", f"{prefix}probe", headers={"Host": "shop.example.com"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200 or body != backend.BODY.encode():
                raise LoadError(
                    f"{running.name} answered {response.status} {body[:200]!r} to {prefix}"
                )


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


def bulk_load(running: Running, seconds: float, connections: int, *, up: bool) -> dict[str, float]:
    """Run the bulk client: ``bytes`` and ``seconds``; raises LoadError when it failed."""
    argv = [
        sys.executable, "-m", "tests.benchmarks.load.bulk_client",
        "--port", str(running.port), "--seconds", f"{seconds:g}", "--connections", str(connections),
        *(["--up"] if up else []),
    ]  # fmt: skip
    finished = subprocess.run(
        argv, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 120, check=False
    )
    if finished.returncode:
        raise LoadError(f"bulk transfers through {running.name} failed: {finished.stderr.strip()}")
    result: dict[str, float] = json.loads(finished.stdout)
    return result
