"""A chain compiled: which steps it has, and what it makes of answers."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import task
from zope.interface import implementer

from meshproxy.interfaces import IConnectionObserver
from meshproxy.observe.fitted import Fitted
from meshproxy.observe.registry import Registry
from meshproxy.tcp.chain import Chain
from tests.tcp.filters import Judge, Rewrite, Serve


def fit(*filters: Any) -> list[Fitted]:
    """The filters at their places."""
    registry, clock = Registry(), task.Clock()
    return [Fitted(f, f"f{n}", "in", registry, clock.seconds) for n, f in enumerate(filters)]


def labels(steps: Any) -> list[str]:
    """Whose steps they are."""
    return [fitted.label for fitted, _ in steps]


def test_steps_are_those_that_filters_provide() -> None:
    """A filter is asked for what it provides and nothing else; bytes for the client in reverse."""
    chain = Chain(fit(Judge(lambda c: None), Rewrite(), Rewrite(), Judge(lambda c: None)))
    assert labels(chain.connected) == ["f0", "f3"]
    assert labels(chain.received) == ["f1", "f2"]
    assert labels(chain.sent) == ["f2", "f1"]
    assert (chain.judging, chain.moves, chain.serve_data) == (2, True, None)


def test_judging_alone_moves_nothing() -> None:
    """Bytes come through the process only for those who want them."""
    assert not Chain(fit(Judge(lambda c: None))).moves


def test_a_server_is_the_last_step() -> None:
    """It is asked behind those that judge, and nothing can stand behind it."""
    chain = Chain(fit(Judge(lambda c: None), Serve(lambda c, data, end: None)))
    assert labels(chain.connected) == ["f0", "f1"]
    assert (chain.judging, chain.moves) == (1, True)
    with pytest.raises(ValueError, match="'f0' is not the last"):
        Chain(fit(Serve(lambda c, data, end: None), Rewrite()))


def test_observers_come_before_the_log() -> None:
    """And only for connections that met the chain; without observers the log is as it was."""
    told: list[str] = []

    @implementer(IConnectionObserver)
    class Watcher:
        def closed(self, connection: Any) -> None:
            told.append("closed")

    class Connection:
        met = True

    def log(record: Any) -> None:
        told.append("logged")

    over = Chain(fit(Watcher())).observed(log)
    assert over is not None
    over(Connection())
    assert told == ["closed", "logged"]
    stranger = Connection()
    stranger.met = False
    over(stranger)
    assert told == ["closed", "logged", "logged"]
    assert Chain(fit(Rewrite())).observed(log) is log
    assert Chain(fit(Rewrite())).observed(None) is None
