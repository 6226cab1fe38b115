"""
What each fault costs: ``python -m tests.integration.faults [REQUESTS]``.

A row for each fault, of three servers one of which has it: how many of the requests failed without
anything, with a circuit breaker, with retries, and with both; how many more tries the last two
took; and the 99th percentile of the time in milliseconds, likewise.
"""

from __future__ import annotations

import sys
from itertools import product

from tests.integration.faults.mesh import WAYS, mesh
from tests.integration.faults.servers import FAULTS, Honest
from tests.integration.faults.traffic import Outcome, run

CLIENTS = 8


def main(requests: int) -> None:
    """Print the table."""
    head = ("fault", "requests", *WAYS, "tries+", "tries+", *(f"p99 {way}" for way in WAYS))
    form = "{:<34}{:>9}" + "{:>9}" * 6 + "{:>13}" * 4
    print(form.format(*head))
    kinds = (Honest, *FAULTS)
    with mesh(product(WAYS, kinds)) as running:
        for kind in kinds:
            found: list[Outcome] = []
            for way in WAYS:
                # A stall without a limit of its own costs each client the route's timeout.
                each = requests // CLIENTS if not (kind.stalls and way == "plain") else 3
                found.append(run(running.ask(way, kind), CLIENTS, each))
            tries = (int(running.second_tries(way, kind)) for way in ("retries", "both"))
            failed = (f"{len(one.wrong) / one.requests:.1%}" for one in found)
            times = (f"{1000 * one.percentile(99):.0f}" for one in found)
            print(form.format(kind.name, found[-1].requests, *failed, *tries, *times), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
