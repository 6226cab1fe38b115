"""A reactor of its own, and what waits on it: for tests of what asks real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshproxy.net.reactor import MeshReactor
from meshproxy.upstream.endpoint import EndpointSpec
from tests.net import live

T = TypeVar("T")


@contextmanager
def clean_reactor() -> Iterator[MeshReactor]:
    """
    A reactor that must have nothing left to do, and no descriptor, when the block ends.

    Its threads (for the names of hosts, and long files) run as if the reactor did.
    """
    made = MeshReactor()
    pool = made.getThreadPool()
    pool.start()
    try:
        yield made
        live.turn(made, 5)
        assert [call for call in made.getDelayedCalls() if call.active()] == []
        assert set(made.getReaders()) <= set(made._internalReaders)
        assert made.getWriters() == []
    finally:
        pool.stop()
        live.close(made)


def result(reactor: Any, deferred: Deferred[T]) -> T:
    """What the Deferred fires with; what it fails with is raised."""
    got: list[Any] = []
    deferred.addBoth(got.append)
    live.turn_until(reactor, lambda: got)
    if isinstance(got[0], Failure):
        got[0].raiseException()
    value: T = got[0]
    return value


class Told:
    """What a source told: ``updates`` and ``failures`` in order."""

    def __init__(self) -> None:
        self.updates: list[Sequence[EndpointSpec]] = []
        self.failures: list[str] = []

    def update(self, specs: Sequence[EndpointSpec]) -> None:
        """For ``IDiscovery.start``."""
        self.updates.append(specs)

    def failed(self, reason: str) -> None:
        """For ``IDiscovery.start``."""
        self.failures.append(reason)

    @property
    def keys(self) -> list[str]:
        """The keys of the last update."""
        return [spec.key for spec in self.updates[-1]] if self.updates else []

    def wait(self, reactor: Any, condition: Callable[[], object]) -> None:
        """Turn the reactor until the condition holds."""
        live.turn_until(reactor, condition)
