"""Processes that the benchmark starts: pinned, measured and ended as one group each.

The laws: a process is the leader of its own group, so that a master and its workers are measured
and ended together, by the group's id and nothing broader; should the benchmark itself be killed,
the kernel ends the leader; a process that does not start serving says why in the error.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from tests.benchmarks.plan import Launch

HOST = "127.0.0.1"
START_SECONDS = 20.0
STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.02
_PORTS = range(20000, 32000)  # below Linux's ephemeral ports, which the load's own connections use


class StartError(Exception):
    """A process ended, or did not serve its port, when it should have started."""


def free_port() -> int:
    """A loopback TCP port that nothing has bound; raises StartError after 1000 busy ones."""
    for _ in range(1000):
        port = random.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise StartError("no free loopback port")


def cores() -> tuple[set[int], set[int]]:
    """The proxy's core, and those of backend and load; the same one if there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return {available[-1]}, set(available[:-1] or available)


def _before_exec(pinned: Collection[int]) -> Callable[[], None]:
    libc = ctypes.CDLL(None)  # looked up before the fork: little may be done after it

    def prepare() -> None:
        os.sched_setaffinity(0, pinned)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return prepare


class Running:
    """A started process group; ``port`` (0 for none) is where it serves."""

    def __init__(
        self, name: str, launch: Launch, directory: Path, port: int, pinned: Collection[int]
    ):
        self.name = name
        self.port = port
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        for file_name, text in launch.files.items():
            (directory / file_name).write_text(text)
        environment = {**os.environ, **launch.environment}
        with open(directory / "stdout", "ab") as out, open(directory / "stderr", "ab") as err:
            self._popen = subprocess.Popen(
                launch.argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=directory,
                env=environment,
                start_new_session=True,
                preexec_fn=_before_exec(pinned),
            )
        self.pid = self._popen.pid

    def wait_until_serving(self, seconds: float = START_SECONDS) -> None:
        """Return once the port accepts; raises StartError with the tail of the output otherwise."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self._popen.poll()
            if status is not None:
                raise StartError(
                    f"{self.name} ended with status {status} while starting\n{self.tail()}"
                )
            with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), 1):
                return
            time.sleep(_POLL_SECONDS)
        raise StartError(
            f"{self.name} does not accept on {HOST}:{self.port} after {seconds:g} s\n{self.tail()}"
        )

    def alive(self) -> bool:
        """Whether the group's leader still runs."""
        return self._popen.poll() is None

    def tail(self, lines: int = 20) -> str:
        """The last lines of the process's standard output, error, and log of errors."""
        texts: list[str] = []
        for name in ("stdout", "stderr", "error.log", "twistd.log"):
            with contextlib.suppress(FileNotFoundError):
                text = (self.directory / name).read_text(errors="replace")
                texts.extend(f"  {line}" for line in text.splitlines()[-lines:])
        return "\n".join(texts) or "  (it wrote nothing)"

    def pids(self) -> list[int]:
        """Every process of the group."""
        return list(_group(self.pid))

    def cpu_seconds(self) -> float:
        """CPU time, user and kernel, of every thread of every process of the group so far."""
        return sum(_cpu_seconds(pid) for pid in self.pids())

    def rss_bytes(self) -> int:
        """Resident memory, summed over the group (shared pages count once a process)."""
        return sum(_rss_bytes(pid) for pid in self.pids())

    def stop(self) -> None:
        """End the group, politely, then not; returns when nothing of it is left."""
        for signal_number, seconds in (
            (signal.SIGTERM, STOP_SECONDS),
            (signal.SIGKILL, STOP_SECONDS),
        ):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal_number)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                if self._popen.poll() is not None and not self.pids():
                    return
                time.sleep(_POLL_SECONDS)


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the command's name: state is [0]."""
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def _group(group: int) -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = _stat_fields(int(entry))
                if int(fields[2]) == group and fields[0] != "Z":
                    yield int(entry)


def _cpu_seconds(pid: int) -> float:
    """The scheduler's nanoseconds where the kernel has them, else clock ticks."""
    total = 0
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(ProcessLookupError):
                    total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
            return total / 1e9
        except FileNotFoundError:
            fields = _stat_fields(pid)
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total / 1e9


def _rss_bytes(pid: int) -> int:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0
