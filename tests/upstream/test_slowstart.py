"""Slow start: shares that grow."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from meshproxy.config import SlowStart as Config
from meshproxy.net.wheel import TimerWheel
from meshproxy.upstream.slowstart import SlowStart
from tests.upstream.made import endpoints


def test_shares_grow_while_the_window_lasts() -> None:
    """About once a second, and the wheel is let go of at its end."""
    clock = Clock()
    wheel = TimerWheel(clock)
    old, new = endpoints(2, 4)
    old.since, new.since = float("-inf"), 0.0
    steps: list[tuple[float, float]] = []

    def refresh() -> None:
        slow.apply([old, new], wheel.now())
        steps.append((clock.seconds(), new.share))

    config = Config.model_validate({"window": "10s"})
    slow = SlowStart(config, wheel, refresh)
    slow.apply([old, new], 0.0)
    assert old.share == 2
    assert new.share == pytest.approx(0.4)
    for _ in range(400):
        clock.advance(0.05)
    assert 9 <= len(steps) <= 11
    for second, share in steps[:-1]:
        assert share == pytest.approx(4 * second / 10)
    assert steps[-1][1] == 4
    assert old.share == 2
    assert not clock.getDelayedCalls()


def test_nobody_new_no_timer() -> None:
    """Without an endpoint in its window the wheel is not asked."""
    clock = Clock()
    wheel = TimerWheel(clock)
    (old,) = endpoints(3)
    old.since = -20.0
    old.share = 0.5
    slow = SlowStart(Config.model_validate({"window": "10s"}), wheel, lambda: None)
    slow.apply([old], 0.0)
    assert old.share == 3
    assert len(wheel) == 0


@pytest.mark.parametrize(("window", "step"), [(0.1, 0.05), (2.0, 0.2), (600.0, 1.0)])
def test_short_windows_have_short_steps(window: float, step: float) -> None:
    """Ten steps, of a second at most and a sweep at least."""
    clock = Clock()
    wheel = TimerWheel(clock)
    (new,) = endpoints(1)
    slow = SlowStart(Config.model_validate({"window": f"{window}s"}), wheel, lambda: None)
    slow.apply([new], 0.0)
    assert slow.deadline == pytest.approx(step)
    slow.stop()
    assert len(wheel) == 0
