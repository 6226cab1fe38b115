"""The command line: ``python -m tests.benchmarks http|tcp|connections|idle|tls-…|tls|all``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import report
from tests.benchmarks.bench import Settings
from tests.benchmarks.process import StartError, cores
from tests.benchmarks.proxies import PEER_NAMES
from tests.benchmarks.scenarios import SCENARIOS
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from tests.benchmarks.figures import Report

_BUSY = 0.15
_LOOK_SECONDS = 0.5


def parser() -> argparse.ArgumentParser:
    """The options, with the defaults that the goals are measured with."""
    defaults = Settings()
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="meshproxy beside its peers: CPU time a unit of work, and the ratios.",
    )
    options.add_argument(
        "scenario", choices=[*SCENARIOS, "tls", "all"],
        help="tls: all whose names begin with it",
    )  # fmt: skip
    options.add_argument(
        "--rounds", type=_positive, default=defaults.rounds, help="default %(default)s"
    )
    options.add_argument(
        "--seconds", type=_positive, default=int(defaults.seconds),
        help="load on one proxy in one round, in whole seconds; default %(default)s",
    )  # fmt: skip
    options.add_argument(
        "--connections", type=_positive, default=defaults.connections,
        help="at a time (tcp uses at most 8); default %(default)s",
    )  # fmt: skip
    options.add_argument(
        "--idle-connections",
        type=_positive,
        default=defaults.idle_connections,
        help="default %(default)s",
    )
    options.add_argument(
        "--peers", type=_peers, default=PEER_NAMES,
        help=f"comma-separated, of {', '.join(PEER_NAMES)} (haproxy: both); default: all installed",
    )  # fmt: skip
    options.add_argument(
        "--without-meshproxy",
        action="store_true",
        help="measure the peers alone, against the first of them",
    )
    options.add_argument(
        "--json", metavar="FILE", help="write the figures there too; - is standard output"
    )
    return options


def chosen(scenario: str) -> list[str]:
    """The scenarios that one word stands for."""
    if scenario == "all":
        return list(SCENARIOS)
    if scenario == "tls":
        return [name for name in SCENARIOS if name.startswith("tls-")]
    return [scenario]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _peers(text: str) -> tuple[str, ...]:
    """The peers' names; ``haproxy`` stands for both of its variants, an empty text for no peer."""
    names: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name == "haproxy":
            names.extend(("haproxy-acl", "haproxy-map"))
        elif name in PEER_NAMES:
            names.append(name)
        else:
            raise argparse.ArgumentTypeError(
                f"no peer {name!r}; there are {', '.join(PEER_NAMES)}, haproxy"
            )
    return tuple(names)


def _terminated(signal_number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that SIGTERM leaves the context managers as Ctrl-C does


def main(argv: Sequence[str] | None = None) -> int:
    """Run the scenarios; 0 when all were measured, 1 when one could not be, 130 on Ctrl-C."""
    options = parser().parse_args(argv)
    settings = Settings(
        rounds=options.rounds,
        seconds=options.seconds,
        connections=options.connections,
        idle_connections=options.idle_connections,
        peers=options.peers,
        meshproxy=not options.without_meshproxy,
    )
    signal.signal(signal.SIGTERM, _terminated)
    people = sys.stderr if options.json == "-" else sys.stdout
    for warning in warnings():
        print(f"warning: {warning}", file=sys.stderr)
    reports: list[Report] = []
    names = chosen(options.scenario)
    status = 0
    try:
        for name in names:
            try:
                found = SCENARIOS[name](settings)
            except (StartError, LoadError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                status = 1
                continue
            print(report.table(found), file=people, flush=True)
            reports.append(found)
    except KeyboardInterrupt:
        print("interrupted; everything that was started is ended", file=sys.stderr)
        status = 130
    if options.json == "-":
        sys.stdout.write(report.dumps(reports))
    elif options.json:
        Path(options.json).write_text(report.dumps(reports))
    return status


def warnings() -> list[str]:
    """What about this machine makes figures worth less; takes half a second to look."""
    found = []
    if cores()[0] == cores()[1]:
        found.append("one core only: the proxy shares it with its load and its backend")
    if (busy := busy_cores(_LOOK_SECONDS)) > _BUSY:
        found.append(
            f"other programs keep {busy:.1f} cores busy: trust the ratios, and those little"
        )
    return found


def busy_cores(seconds: float) -> float:
    """How many cores the whole machine keeps busy, over so many seconds; idle is 0.0."""
    before = _busy_ticks()
    time.sleep(seconds)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def _busy_ticks() -> int:
    """Ticks spent in user, nice, system, irq and softirq: all but idle, iowait and steal."""
    values = [int(value) for value in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
    return sum(values[:3]) + sum(values[5:7])


if __name__ == "__main__":
    sys.exit(main())
