"""Started processes: pinned, measured as a group, and ended as one."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.plan import Launch
from tests.benchmarks.process import Running, StartError, cores, free_port

if TYPE_CHECKING:
    from pathlib import Path

SERVER = textwrap.dedent(
    """
    import os, socket, sys, time
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    os.fork()                                   # a worker, as nginx has
    end = time.process_time() + 0.05
    while time.process_time() < end: pass       # some work to be seen
    while True: listener.accept()
    """
)


def _run(directory: Path, code: str) -> Running:
    port = free_port()
    pinned, _ = cores()
    return Running(
        "server", Launch((sys.executable, "-c", code, str(port)), {}), directory, port, pinned
    )


def test_a_group_is_pinned_and_ended_whole(tmp_path: Path) -> None:
    """Parent and child are on the proxy's core, their memory is seen, and stop leaves neither."""
    running = _run(tmp_path / "server", SERVER)
    try:
        running.wait_until_serving()
        assert running.alive()
        pids = running.pids()
        assert running.pid in pids
        assert all(os.sched_getaffinity(pid) == cores()[0] for pid in pids)
        assert running.rss_bytes() > 0
        assert running.cpu_seconds() > 0
    finally:
        running.stop()
    assert running.pids() == []
    assert not running.alive()


def test_a_process_that_ends_while_starting_is_quoted(tmp_path: Path) -> None:
    """Its status and last words are in the error."""
    running = _run(tmp_path / "server", "import sys; sys.exit('no such route')")
    try:
        with pytest.raises(StartError, match=r"(?s)ended with status 1.*no such route"):
            running.wait_until_serving()
    finally:
        running.stop()


def test_a_process_that_ignores_the_polite_end_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL follows SIGTERM."""
    monkeypatch.setattr("tests.benchmarks.process.STOP_SECONDS", 0.2)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
    running = _run(tmp_path / "server", deaf)
    running.wait_until_serving()
    running.stop()
    assert running.pids() == []


def test_cores_leave_the_proxy_alone_where_there_are_several() -> None:
    """One core for the proxy, the rest for its load; together all that this process may use."""
    proxy, load = cores()
    assert len(proxy) == 1
    assert proxy | load == os.sched_getaffinity(0)
    assert not proxy & load or len(os.sched_getaffinity(0)) == 1
