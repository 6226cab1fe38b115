"""The HTTP load generator: runs wrk with our script and reads its result.

A run whose requests failed measures something else than its name says: it is an error, not a
figure.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from tests.benchmarks.process import HOST

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

SCRIPT = Path(__file__).parent / "load" / "requests.lua"
BODIES = SCRIPT.with_name("bodies.lua")
_MARK = "RESULT "
_FAILURES = ("connect", "read", "write", "status", "timeout")


class LoadError(Exception):
    """The load generator is missing, broke, or saw requests fail."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run: requests answered, their seconds, latencies in ms, failures by kind, bytes read."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    failures: dict[str, int]
    bytes: int = 0


def parse(output: str) -> Result:
    """The result in wrk's output; raises LoadError when there is none."""
    for line in output.splitlines():
        if line.startswith(_MARK):
            values: dict[str, Any] = json.loads(line[len(_MARK) :])
            failures = {kind: int(values[kind]) for kind in _FAILURES if values[kind]}
            return Result(
                int(values["requests"]),
                values["seconds"],
                values["p50_ms"],
                values["p99_ms"],
                failures,
                int(values["bytes"]),
            )
    raise LoadError(f"wrk gave no result:\n{output}")


def command(
    port: int,
    *,
    seconds: float,
    connections: int,
    pinned: Collection[int],
    arguments: Sequence[str],
    script: Path = SCRIPT,
    secured: bool = False,
) -> list[str]:
    """The command line of one run; wrk takes whole seconds, at least one."""
    return [
        "taskset", "-c", ",".join(str(core) for core in sorted(pinned)),
        "wrk", "--threads", "1", "--connections", str(connections),
        "--duration", f"{max(1, round(seconds))}s", "--timeout", "10s", "--script", str(script),
        f"{'https' if secured else 'http'}://{HOST}:{port}/", "--", *arguments,
    ]  # fmt: skip


def missing() -> str | None:
    """The programs of a run that are not installed, or None."""
    absent = [program for program in ("wrk", "taskset") if which(program) is None]
    return f"not installed: {', '.join(absent)}" if absent else None


def run(
    port: int,
    *,
    seconds: float,
    connections: int,
    pinned: Collection[int],
    arguments: Sequence[str],
    script: Path = SCRIPT,
    offer: Mapping[str, str] | None = None,
) -> Result:
    """Load 127.0.0.1:``port``; raises LoadError when wrk fails or any request did.

    ``arguments`` are the script's; with ``offer`` it speaks TLS, in that environment.
    """
    argv = command(
        port,
        seconds=seconds,
        connections=connections,
        pinned=pinned,
        arguments=arguments,
        script=script,
        secured=offer is not None,
    )
    finished = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=False,
        env={**os.environ, **(offer or {})},
    )
    if finished.returncode:
        raise LoadError(
            f"wrk ended with status {finished.returncode}:\n{finished.stdout}{finished.stderr}"
        )
    result = parse(finished.stdout)
    if result.failures or not result.requests:
        raise LoadError(f"{result.requests} requests were answered; failures: {result.failures}")
    return result
