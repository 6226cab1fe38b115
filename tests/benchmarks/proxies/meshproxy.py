"""meshproxy itself: its defaults are the features that its peers are made to match."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.plan import (
    CONNECT_TIMEOUT,
    IDLE_TIMEOUT,
    MAX_CONNECTIONS,
    POOL_CONNECTIONS,
    REQUEST_TIMEOUT,
    HttpPlan,
    Launch,
    Place,
    Plan,
)
from tests.benchmarks.process import HOST

ROOT = Path(__file__).resolve().parents[3]
PLUGINS = ROOT / "tests" / "benchmarks" / "plugins"
_RUN = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"


class Meshproxy:
    """Run from the source tree by this interpreter; never skipped, since it is what is measured."""

    name = "meshproxy"
    resilient = False
    filters = 0

    def missing(self, plan: Plan) -> str | None:
        """Never: a meshproxy that does not start is an error."""
        return None

    def version(self) -> str:
        """``__version__`` of the package in the source tree."""
        code = "import meshproxy; print(meshproxy.__version__)"
        finished = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return finished.stdout.strip() or "of unknown version"

    def launch(self, plan: Plan, place: Place) -> Launch:
        """One worker, in the foreground, its admin listening as a scraper would want it."""
        argv = (
            sys.executable, "-c", _RUN, "-n", "--pidfile=", "--logfile=twistd.log",
            "meshproxy", "--config", str(place.directory / "meshproxy.yaml"),
        )  # fmt: skip
        return Launch(
            argv,
            {"meshproxy.yaml": self.configuration(plan, place)},
            {"PYTHONPATH": str(ROOT)},
        )

    def configuration(self, plan: Plan, place: Place) -> str:
        """The file that it is run with."""
        return configuration(plan, place, resilient=self.resilient, filters=self.filters)


class Resilient(Meshproxy):
    """The same with everything on that keeps upstreams up: what does that cost a request?"""

    name = "meshproxy-resilient"
    resilient = True

    def missing(self, plan: Plan) -> str | None:
        """HTTP only: a short TCP connection has no retries to pay for."""
        return None if isinstance(plan, HttpPlan) else "it is compared for HTTP only"


class Filtered(Meshproxy):
    """The same with so many trivial filters: what does each cost a request?"""

    def __init__(self, filters: int) -> None:
        self.filters = filters
        self.name = f"meshproxy-filters-{filters}"

    def missing(self, plan: Plan) -> str | None:
        """HTTP only."""
        return None if isinstance(plan, HttpPlan) else "it is compared for HTTP only"


RESILIENT = """\
    balance: least_request
    circuit_breaker:
      failure_threshold: 5
      local_failure_threshold: 5
      success_rate: { min_endpoints: 3 }
      failure_percentage: { min_endpoints: 3 }
    health_check: { http: /, interval: 1s }
    limits: { high: {} }
    retry_budget: {}
    endpoint_limits: { concurrency: 1000, rate: { requests: 1000000 } }
    panic_threshold: 0
    slow_start: 30s
    zone_aware: true
    endpoint_metrics: true
"""
RETRY = (
    "      retry: { on: [5xx, retriable-4xx], attempts: 2, per_try_timeout: 5s, "
    "response_buffer: 64KiB }\n"
)


def configuration(plan: Plan, place: Place, *, resilient: bool = False, filters: int = 0) -> str:
    """The plan as meshproxy's YAML."""
    log = f"{{ path: {place.directory / 'access.log'}, format: text }}"
    head = (
        "workers: 1\n"
        f"{f'plugins: [{PLUGINS}]' if filters else ''}\n"
        f"admin: {{ listen: '{HOST}:{place.admin}' }}\n"
        "listeners:\n"
        "  bench:\n"
        f"    listen: '{HOST}:{place.port}'\n"
        f"    max_connections: {MAX_CONNECTIONS}\n"
    )
    if plan.terminate:
        pair = f"{{ chain: {plan.terminate.chain}, key: {plan.terminate.key} }}"
        head += f"    tls: {{ certificates: [{pair}] }}\n"
    if isinstance(plan, HttpPlan):
        routes = "".join(
            f"        - {{ match: {{ prefix: {route.prefix} }}, to: {route.cluster}, "
            f"timeout: {REQUEST_TIMEOUT}s }}\n"
            for route in plan.routes
        )
        clusters = dict(plan.clusters)
        retry = RETRY if resilient else ""
        chain = ", ".join(f"{{ trivial: {{}}, as: trivial_{n} }}" for n in range(filters))
        filtered = f"      filters: [{chain}]\n" if filters else ""
        body = f"    http:\n      access_log: {log}\n{retry}{filtered}      routes:\n{routes}"
    else:
        clusters = {"upstream": plan.backend}
        body = f"    tcp: {{ to: upstream, idle_timeout: {IDLE_TIMEOUT}s, access_log: {log} }}\n"
    pool = ""  # TCP connections are not pooled
    if isinstance(plan, HttpPlan):
        pool = f", pool: {{ max_connections: {POOL_CONNECTIONS}, idle_timeout: 60s }}"
        if plan.originate:
            pool += (
                f", tls: {{ server_name: {plan.originate.name}, ca: {plan.originate.authority} }}"
            )
    if resilient:
        ports = list(clusters.values())
        tail = "".join(
            f"  {name}:\n    endpoints: {_three(ports, number)}\n"
            f"    connect_timeout: {CONNECT_TIMEOUT}s\n{RESILIENT}"
            f"    pool: {{ max_connections: {POOL_CONNECTIONS}, idle_timeout: 60s }}\n"
            for number, name in enumerate(clusters)
        )
        return f"zone: a\n{head}{body}clusters:\n{tail}"
    tail = "".join(
        f"  {name}: {{ endpoints: ['{HOST}:{port}'], connect_timeout: {CONNECT_TIMEOUT}s{pool} }}\n"
        for name, port in clusters.items()
    )
    return f"{head}{body}clusters:\n{tail}"


def _three(ports: list[int], first: int) -> str:
    """Three endpoints, for a choice and a breaker to have something to do."""
    chosen = [ports[(first + step) % len(ports)] for step in range(3)]
    return (
        "["
        + ", ".join(f"{{ address: '{HOST}:{p}', zone: a }}" for p in dict.fromkeys(chosen))
        + "]"
    )
