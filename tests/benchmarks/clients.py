"""Our own load generators, run as processes; one that fails makes the measurement an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.benchmarks.identity import CIPHER, GROUP
from tests.benchmarks.proxies.meshproxy import ROOT
from tests.benchmarks.wrk import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.benchmarks.plan import Identity
    from tests.benchmarks.process import Running


def bulk_load(
    running: Running,
    seconds: float,
    connections: int,
    *,
    up: bool,
    secured: Identity | None = None,
    offer: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Run the bulk client: ``bytes`` and ``seconds``; raises LoadError when it failed."""
    arguments = [*(["--up"] if up else []), *(["--tls", secured.name] if secured else [])]
    (result,) = _clients(
        running, "bulk_client", seconds, connections, arguments, offer or {}, processes=1
    )
    return result


def handshake_load(
    running: Running,
    seconds: float,
    connections: int,
    *,
    secured: Identity,
    offer: Mapping[str, str],
    processes: int,
    resume: bool = False,
    path: str = "",
) -> dict[str, float]:
    """Run the handshake client: ``handshakes``, ``seconds`` and latencies, the processes' together.

    With a ``path`` each connection asks for it.  Raises LoadError when one failed, or agreed to
    something else than is measured.
    """
    arguments = ["--name", secured.name, *(["--resume"] if resume else [])]
    arguments += ["--path", path] if path else []
    share = max(1, connections // processes)
    found = _clients(running, "handshake_client", seconds, share, arguments, offer, processes)
    for result in found:
        if result["cipher"].lower() != f"{CIPHER} {GROUP}".lower():
            raise LoadError(f"{running.name} agreed to {result['cipher']}")
    return {
        "handshakes": sum(result["handshakes"] for result in found),
        "seconds": max(result["seconds"] for result in found),
        "p50_ms": max(result["p50_ms"] for result in found),
        "p99_ms": max(result["p99_ms"] for result in found),
    }


def _clients(
    running: Running,
    module: str,
    seconds: float,
    connections: int,
    arguments: Sequence[str],
    offer: Mapping[str, str],
    processes: int,
) -> list[dict[str, Any]]:
    """What so many processes of one of our own clients printed; LoadError when one failed."""
    argv = [
        sys.executable, "-m", f"tests.benchmarks.load.{module}", "--port", str(running.port),
        "--seconds", f"{seconds:g}", "--connections", str(connections), *arguments,
    ]  # fmt: skip
    started = [
        subprocess.Popen(
            argv,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **offer},
        )
        for _ in range(processes)
    ]
    try:
        texts = [popen.communicate(timeout=seconds + 120) for popen in started]
    finally:
        for popen in started:
            popen.kill()
            popen.wait()
    for popen, (_, error) in zip(started, texts, strict=True):
        if popen.returncode:
            raise LoadError(f"{module} through {running.name} failed: {error.strip()}")
    return [json.loads(text) for text, _ in texts]
