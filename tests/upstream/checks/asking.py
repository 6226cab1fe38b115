"""What the tests of checks ask with, and how they wait for the verdict."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from meshproxy.config.health import HealthCheck
from meshproxy.errors import CheckFailed
from meshproxy.upstream.endpoint import Endpoint, EndpointSpec
from tests.harness import read_to_end
from tests.net.live import turn_until

#: A check that passed.
PASSED = None
#: What a cancelled check's reason is.
CANCELLED = "cancelled"


def config(**fields: Any) -> HealthCheck:
    """A health check's configuration, in the words of YAML; its timeout is no test's business."""
    return HealthCheck.model_validate({"timeout": "60s", **fields})


def endpoint(port: int, host: str = "127.0.0.1", **fields: Any) -> Endpoint:
    """The endpoint at ``host:port``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Endpoint(EndpointSpec(text, family, (host, port), text, **fields))


def unix_endpoint(path: str) -> Endpoint:
    """The endpoint at a UNIX socket."""
    text = f"unix:{path}"
    return Endpoint(EndpointSpec(text, socket.AF_UNIX, path, text))


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def silent(sock: socket.socket) -> None:
    """For :class:`tests.harness.Server`: say nothing until the other side has ended."""
    read_to_end(sock)


class Verdict:
    """What becomes of a check: :data:`PASSED`, :data:`CANCELLED`, or the reason of its failure."""

    def __init__(self, deferred: Deferred[None]) -> None:
        self.results: list[str | None] = []
        self.deferred = deferred
        deferred.addCallbacks(lambda _: self.results.append(PASSED), self._failed)

    def _failed(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            self.results.append(CANCELLED)
        else:
            failure.trap(CheckFailed)
            self.results.append(str(failure.value))

    def cancel(self) -> None:
        """As the asker does after the timeout."""
        self.deferred.cancel()

    def wait(self, reactor: Any) -> str | None:
        """The verdict, of which there is one only."""
        turn_until(reactor, lambda: self.results)
        assert len(self.results) == 1
        return self.results[0]


def left(reactor: Any) -> list[Any]:
    """What is registered or scheduled in the reactor besides its own."""
    own = reactor._internalReaders
    found = [each for each in reactor.getReaders() if each not in own]
    return [*found, *reactor.getWriters(), *reactor.getDelayedCalls()]
