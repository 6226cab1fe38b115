"""The command check: what is run, how it ends, and that nothing of it is left."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IHealthCheck
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks import command as module
from meshproxy.upstream.checks.command import TAIL, CommandCheck
from meshproxy.upstream.endpoint import Endpoint
from tests.net.live import turn_until
from tests.upstream.checks.asking import (
    CANCELLED,
    PASSED,
    Verdict,
    config,
    endpoint,
    left,
    unix_endpoint,
)


def begin(
    reactor: MeshReactor, *command: str, where: Endpoint | None = None, **more: Any
) -> Verdict:
    """A check by this program."""
    check = CommandCheck(config(command=list(command), **more), reactor)
    verifyObject(IHealthCheck, check)
    return Verdict(check.check(where or endpoint(80)))


def shell(reactor: MeshReactor, script: str) -> str | None:
    """The verdict of a shell script."""
    return begin(reactor, "sh", "-c", script).wait(reactor)


@pytest.fixture(params=["pidfd", "old kernel", "other system"])
def ending(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of learning that a program has ended."""
    if request.param == "old kernel":

        def refused(pid: int) -> int:
            raise OSError(errno.ENOSYS, "Function not implemented")

        monkeypatch.setattr(os, "pidfd_open", refused)
    elif request.param == "other system":
        monkeypatch.delattr(os, "pidfd_open")


@pytest.mark.usefixtures("ending")
def test_the_status_decides(reactor: MeshReactor) -> None:
    """0 passes; otherwise the last line that it wrote, to either stream, is the reason."""
    assert shell(reactor, "echo fine; exit 0") is PASSED
    assert shell(reactor, "exit 3") == "status 3"
    assert shell(reactor, "echo one; echo '  two  ' >&2; echo; exit 4") == "status 4: two"
    assert shell(reactor, "kill -TERM $$") == "killed by signal 15"


def test_arguments_are_given_as_they_are(reactor: MeshReactor) -> None:
    """No shell looks at them; the three words are replaced wherever they stand, others not."""
    program = "import sys; sys.exit(repr(sys.argv[1:]))"
    words = ["{host}:{port}", "a {address} $HOME; `x`", "{name} {{port}}", ""]
    said = begin(reactor, sys.executable, "-c", program, *words).wait(reactor)
    wanted = ["127.0.0.1:80", "a 127.0.0.1:80 $HOME; `x`", "{name} {80}", ""]
    assert said == f"status 1: {wanted!r}"
    said = begin(
        reactor, sys.executable, "-c", program, *words[:2], where=endpoint(80, "::1"), port=81
    ).wait(reactor)
    assert said == f"status 1: {['::1:81', 'a [::1]:81 $HOME; `x`']!r}"
    where = unix_endpoint("/run/{port}.sock")
    verdict = begin(reactor, sys.executable, "-c", program, "{address}|{host}", where=where)
    assert verdict.wait(reactor) == f"status 1: {['unix:/run/{port}.sock|']!r}"


def test_the_environment_is_small(reactor: MeshReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH and who is asked; secrets of the proxy's own environment are not passed on."""
    monkeypatch.setenv("SECRET", "x")
    program = "import os; raise SystemExit(' '.join(sorted(os.environ)))"
    said = begin(reactor, sys.executable, "-c", program).wait(reactor)
    assert said is not None
    names = said.removeprefix("status 1: ").split()
    assert set(names) <= {
        "LC_CTYPE",  # Python's own doing (PEP 538)
        "MESHPROXY_ADDRESS",
        "MESHPROXY_HOST",
        "MESHPROXY_PORT",
        "PATH",
    }
    script = 'test "$MESHPROXY_HOST $MESHPROXY_PORT $MESHPROXY_ADDRESS" = "$1"'
    line = "127.0.0.1 80 127.0.0.1:80"
    assert begin(reactor, "sh", "-c", script, "sh", line).wait(reactor) is PASSED


def test_standard_input_is_empty(reactor: MeshReactor) -> None:
    """A program that reads gets the end, and does not wait."""
    assert shell(reactor, "cat") is PASSED


def test_what_cannot_be_run(reactor: MeshReactor, tmp_path: Path) -> None:
    """A failure of the check that names the program."""
    said = begin(reactor, "/nonexistent/program").results
    assert said == ["cannot run /nonexistent/program: No such file or directory"]
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert begin(reactor, str(plain)).results == [f"cannot run {plain}: Permission denied"]


def test_much_output_is_read_and_its_end_kept(reactor: MeshReactor) -> None:
    """A program that writes a lot is not stopped by a full pipe; a long line is cut in front."""
    assert shell(reactor, "head -c 3000000 /dev/zero; echo; echo last; exit 5") == "status 5: last"
    said = shell(reactor, "head -c 100000 /dev/zero | tr '\\0' x; exit 6")
    assert said == "status 6: " + "x" * TAIL


def test_a_program_that_closes_its_output(reactor: MeshReactor) -> None:
    """It runs on, and its status counts."""
    assert shell(reactor, "exec >&- 2>&-; sleep 0.1; exit 7") == "status 7"


def test_a_program_that_leaves_others_behind(reactor: MeshReactor, tmp_path: Path) -> None:
    """Its own end is the end of the check, though others hold its output open."""
    pid = tmp_path / "pid"
    assert shell(reactor, f"sleep 1000 & echo $! > {pid}; echo said; exit 8") == "status 8: said"
    assert left(reactor) == []
    os.kill(int(pid.read_text()), 9)


@pytest.mark.usefixtures("ending")
@pytest.mark.parametrize("script", ["wait", "exec yes", "trap '' TERM INT HUP; wait; wait"])
def test_cancelling_kills_all_that_it_started(
    reactor: MeshReactor, tmp_path: Path, script: str
) -> None:
    """The program and its children die, however they feel about it, and it is reaped."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    said = bytearray()
    ended = False

    def listen() -> bool:
        nonlocal ended
        try:
            data = os.read(descriptor, 1000)
        except BlockingIOError:
            return False
        said.extend(data)
        ended = bool(said) and not data
        return b"\n" in said

    # Both hold descriptor 3 open: the end comes when neither lives any more.
    verdict = begin(reactor, "sh", "-c", f"exec 3>{fifo}; sleep 1000 & echo $$ >&3; {script}")
    turn_until(reactor, listen)
    assert verdict.results == []
    verdict.cancel()
    assert verdict.results == [CANCELLED]
    turn_until(reactor, lambda: (listen(), ended)[1])
    turn_until(reactor, lambda: left(reactor) == [])
    os.close(descriptor)
    with pytest.raises(ChildProcessError):
        os.waitpid(int(said), os.WNOHANG)
    assert verdict.results == [CANCELLED]


def test_cancelling_what_ended_already(reactor: MeshReactor) -> None:
    """It ended and nobody has looked yet: no error, and it is reaped."""
    verdict = begin(reactor, "true")
    (ended,) = [
        each
        for each in reactor.getReaders()
        if isinstance(each, module._Reader) and each._ready.__name__ == "_look"
    ]
    pid = ended._ready.__self__._process.pid
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    verdict.cancel()
    assert verdict.results == [CANCELLED]
    turn_until(reactor, lambda: left(reactor) == [])
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def test_descriptors_are_not_lost(reactor: MeshReactor) -> None:
    """After checks that passed, failed, could not run and were cancelled, none is open."""
    before = len(os.listdir("/proc/self/fd"))
    for script in ("exit 0", "exit 1"):
        shell(reactor, script)
    assert begin(reactor, "/nonexistent").results
    verdict = begin(reactor, "sleep", "1000")
    verdict.cancel()
    turn_until(reactor, lambda: left(reactor) == [])
    assert len(os.listdir("/proc/self/fd")) == before
