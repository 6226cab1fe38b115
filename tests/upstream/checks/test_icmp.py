"""The ICMP check: replies to this very request, and kernels that forbid it."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IHealthCheck
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks import icmp as module
from meshproxy.upstream.checks.icmp import IcmpCheck, forbidden
from tests.harness import ROOT
from tests.net.live import turn, turn_until
from tests.upstream.checks.asking import (
    CANCELLED,
    PASSED,
    Verdict,
    config,
    endpoint,
    left,
    unix_endpoint,
)


@pytest.fixture
def check(reactor: MeshReactor) -> IcmpCheck:
    """The check."""
    made = IcmpCheck(config(icmp=True), reactor)
    verifyObject(IHealthCheck, made)
    return made


class Wire:
    """A datagram socket in the place of a ping socket; ``peer`` is the host that is pinged."""

    def __init__(self) -> None:
        self.ours, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.families: list[int] = []
        self.connected: list[object] = []

    def open_socket(self, family: int) -> socket.socket:
        """In place of the module's: a socket that is connected to ``peer`` already."""
        self.families.append(family)
        wire = self

        class Connected(socket.socket):
            def connect(self, address: object) -> None:
                wire.connected.append(address)

        return Connected(fileno=self.ours.detach())


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[Wire]:
    """In place of the kernel's ping sockets."""
    made = Wire()
    monkeypatch.setattr(module, "open_socket", made.open_socket)
    yield made
    made.ours.close()
    made.peer.close()


@pytest.mark.parametrize(
    ("host", "family", "request_type", "reply_type"),
    [("192.0.2.1", socket.AF_INET, 8, 0), ("2001:db8::1", socket.AF_INET6, 128, 129)],
)
def test_the_reply_to_this_request_passes(
    reactor: MeshReactor,
    check: IcmpCheck,
    wire: Wire,
    host: str,
    family: int,
    request_type: int,
    reply_type: int,
) -> None:
    """Type, code, sequence number and data are those of the request; the kernel has the rest."""
    verdict = Verdict(check.check(endpoint(80, host)))
    assert (wire.families, wire.connected) == ([family], [(host, 0)])
    request = wire.peer.recv(100)
    assert (request[0], request[1], len(request)) == (request_type, 0, 24)
    reply = bytes((reply_type,)) + request[1:2] + b"\xab\xcd\x12\x34" + request[6:]
    wrong = [
        request,  # an echo of the request itself
        b"\3" + reply[1:],
        reply[:1] + b"\1" + reply[2:],
        reply[:6] + bytes((reply[6] ^ 1,)) + reply[7:],
        reply[:-1] + bytes((reply[-1] ^ 1,)),
        reply[:-1],
        reply + b"\0",
        b"",
    ]
    for other in wrong:
        wire.peer.send(other)
    turn(reactor, len(wrong) + 3)
    assert verdict.results == []
    wire.peer.send(reply)
    assert verdict.wait(reactor) is PASSED


def test_no_two_requests_are_alike(
    reactor: MeshReactor, check: IcmpCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late reply to the last one does not pass the next."""
    seen = set()
    for _ in range(5):
        wire = Wire()
        monkeypatch.setattr(module, "open_socket", wire.open_socket)
        verdict = Verdict(check.check(endpoint(80)))
        seen.add(wire.peer.recv(100))
        verdict.cancel()
        assert verdict.results == [CANCELLED]
        wire.peer.close()
    assert len(seen) == 5
    assert left(reactor) == []


def test_a_unix_socket_cannot_be_pinged(check: IcmpCheck) -> None:
    """It says so."""
    said = Verdict(check.check(unix_endpoint("/run/x.sock"))).results
    assert said == ["a UNIX socket cannot be pinged"]


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The kernel answers every attempt with this error."""

    def opened(family: int) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(module, "open_socket", opened)


def test_where_the_kernel_forbids_it(
    reactor: MeshReactor, check: IcmpCheck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The check fails; who asks before is told what to set."""
    refuse(monkeypatch, errno.EACCES)
    assert Verdict(check.check(endpoint(80))).results == ["permission denied"]
    allowed = tmp_path / "range"
    monkeypatch.setattr(module, "_RANGE", allowed)
    said = forbidden(socket.AF_INET)
    assert said is not None
    assert "net.ipv4.ping_group_range (unknown)" in said
    allowed.write_text("1\t0\n")
    said = forbidden(socket.AF_INET6)
    assert said is not None
    assert "net.ipv4.ping_group_range (1 to 0)" in said
    assert str(os.getegid()) in said


def test_where_the_kernel_has_no_such_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the system's words: the group has nothing to do with it."""
    refuse(monkeypatch, errno.EAFNOSUPPORT)
    assert forbidden(socket.AF_INET6) == (
        "no ICMP socket can be opened: Address family not supported by protocol"
    )


def test_where_it_is_allowed(monkeypatch: pytest.MonkeyPatch, wire: Wire) -> None:
    """Nothing to say, and nothing left open."""
    assert forbidden(socket.AF_INET) is None
    assert wire.ours.fileno() == -1


def test_loopback_answers(reactor: MeshReactor, check: IcmpCheck) -> None:
    """A real request and a real reply."""
    why = forbidden(socket.AF_INET)
    if why is not None:
        pytest.skip(why)
    verdict = Verdict(check.check(endpoint(80)))
    turn_until(reactor, lambda: verdict.results)
    assert verdict.results == [PASSED]


# A kernel's network namespace has a ping_group_range of its own: where one may be made, the real
# thing is tried whatever the system at large allows.
SCRIPT = """
import socket, sys
from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.checks.icmp import IcmpCheck, forbidden
from tests.upstream.checks.asking import Verdict, config, endpoint
reactor = MeshReactor()
check = IcmpCheck(config(icmp=True), reactor)
before = forbidden(socket.AF_INET)
if before is None or "ping_group_range (1 to 0)" not in before:
    sys.exit(f"a new namespace should forbid it: {before}")
open("/proc/sys/net/ipv4/ping_group_range", "w").write("0 0")
for host in ("127.0.0.1", "127.0.0.1", "::1"):
    if host == "::1" and forbidden(socket.AF_INET6) or forbidden(socket.AF_INET):
        print("skipped", host)
        continue
    said = Verdict(check.check(endpoint(80, host))).wait(reactor)
    if said is not None:
        sys.exit(f"{host}: {said}")
    print("passed", host)
said = Verdict(check.check(endpoint(80, "192.0.2.1"))).wait(reactor)
print("unreachable:", said)
"""


def test_in_a_namespace_that_allows_it() -> None:
    """Forbidden first, with the reason; then allowed, and loopback answers."""
    if not (shutil.which("unshare") and shutil.which("ip")):
        pytest.skip("needs unshare and ip")
    user = [] if os.getuid() == 0 else ["--map-root-user"]
    begin = ["unshare", *user, "--net", "sh", "-c"]
    may = "ip link set lo up && echo '1 0' > /proc/sys/net/ipv4/ping_group_range"
    if subprocess.run([*begin, may], capture_output=True, check=False).returncode:
        pytest.skip("this system gives nobody a network namespace whose settings can be changed")
    run = subprocess.run(
        [*begin, f'{may} && exec "$0" -c "$1"', sys.executable, SCRIPT],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        timeout=60,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "passed 127.0.0.1\npassed 127.0.0.1\n" in run.stdout
    assert "unreachable: network is unreachable" in run.stdout
