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
_RUN = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"


class Meshproxy:
    """Run from the source tree by this interpreter; never skipped, since it is what is measured."""

    name = "meshproxy"

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
            argv, {"meshproxy.yaml": configuration(plan, place)}, {"PYTHONPATH": str(ROOT)}
        )


def configuration(plan: Plan, place: Place) -> str:
    """The plan as meshproxy's YAML."""
    log = f"{{ path: {place.directory / 'access.log'}, format: text }}"
    head = (
        "workers: 1\n"
        f"admin: {{ listen: '{HOST}:{place.admin}' }}\n"
        "listeners:\n"
        "  bench:\n"
        f"    listen: '{HOST}:{place.port}'\n"
        f"    max_connections: {MAX_CONNECTIONS}\n"
    )
    if isinstance(plan, HttpPlan):
        routes = "".join(
            f"        - {{ match: {{ prefix: {route.prefix} }}, to: {route.cluster}, "
            f"timeout: {REQUEST_TIMEOUT}s }}\n"
            for route in plan.routes
        )
        clusters = dict(plan.clusters)
        body = f"    http:\n      access_log: {log}\n      routes:\n{routes}"
    else:
        clusters = {"upstream": plan.backend}
        body = f"    tcp: {{ to: upstream, idle_timeout: {IDLE_TIMEOUT}s, access_log: {log} }}\n"
    pool = ""  # TCP connections are not pooled
    if isinstance(plan, HttpPlan):
        pool = f", pool: {{ max_connections: {POOL_CONNECTIONS}, idle_timeout: 60s }}"
    tail = "".join(
        f"  {name}: {{ endpoints: ['{HOST}:{port}'], connect_timeout: {CONNECT_TIMEOUT}s{pool} }}\n"
        for name, port in clusters.items()
    )
    return f"{head}{body}clusters:\n{tail}"
