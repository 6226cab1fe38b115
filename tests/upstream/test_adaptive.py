"""The gradient: a limit that follows the latency."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from meshproxy.config.limits import Adaptive as Config
from meshproxy.upstream.adaptive import CALIBRATION, MOST, STUCK, Adaptive
from meshproxy.upstream.endpoint import Endpoint
from tests.upstream.made import endpoints


class World:
    """An endpoint and its limiter."""

    def __init__(self, **config: float) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        (self.endpoint,) = endpoints(1)
        times = {"interval", "recalibrate"}
        written = {key: f"{value}s" if key in times else value for key, value in config.items()}
        self.limiter = Adaptive(self.endpoint, Config.model_validate(written), self.clock.seconds)

    @property
    def limit(self) -> int:
        """What the endpoint may have in flight."""
        return self.endpoint.max_active

    def run(self, seconds: float, times: int = 1, every: float = 0.001) -> None:
        """Requests that took so long, one after the other."""
        for _ in range(times):
            self.clock.advance(every)
            self.limiter.sample(seconds)

    def calibrate(self, seconds: float = 0.001) -> None:
        """Measure the least latency."""
        self.clock.advance(1)
        self.run(seconds, CALIBRATION)


def test_the_first_limit() -> None:
    """The initial one, until the least latency is known and after."""
    world = World(initial=7)
    assert world.limit == 7
    assert world.limiter.describe()["calibrating"]
    world.calibrate(0.002)
    assert world.limit == 7
    said = world.limiter.describe()
    assert (said["calibrating"], said["least_latency"]) == (False, 0.002)


def test_envoys_formula() -> None:
    """gradient = (least + buffer) / latency; limit = gradient × limit + its square root."""
    world = World(initial=100, buffer=25, interval=0.1)
    world.calibrate(0.010)
    world.clock.advance(0.2)
    world.limiter.sample(0.020)
    wanted = 100 * 0.0125 / 0.020
    assert world.limit == int(wanted + sqrt(wanted))
    assert world.limiter.describe()["latency"] == 0.020


def test_the_gradient_is_bounded() -> None:
    """One bad or good interval at most halves or doubles it, but for the square root."""
    world = World(initial=100)
    world.calibrate(0.010)
    world.clock.advance(1)
    world.limiter.sample(0.9)
    assert world.limit == int(50 + sqrt(50))
    limit = world.limit
    world.clock.advance(1)
    world.limiter.sample(0.0)
    assert world.limit == int(2 * limit + sqrt(2 * limit))


def test_it_grows_to_the_most_and_shrinks_to_the_least() -> None:
    """At the least latency it grows, at a high one it shrinks, within its bounds."""
    world = World(initial=10, min=4, max=50)
    world.calibrate(0.010)
    seen = []
    for _ in range(20):
        world.run(0.010, 2, every=0.1)
        seen.append(world.limit)
    assert seen == sorted(seen)
    assert seen[-1] == 50
    for _ in range(8):
        world.run(0.9, 1, every=1.0)
    assert world.limit < 10


def test_only_once_an_interval() -> None:
    """Between two computations samples are only kept."""
    world = World(initial=10, interval=1.0)
    world.calibrate()
    world.run(0.5, 10, every=0.05)
    assert world.limit == 10
    world.run(0.1, 1, every=1.0)
    assert world.limit != 10


def test_the_percentile() -> None:
    """Of an interval's latencies the one that the configuration names counts."""
    world = World(percentile=90, interval=10.0, initial=100, buffer=0)
    world.calibrate(0.010)
    world.run(0.010, 89)
    world.run(0.040, 11)
    world.clock.advance(10)
    world.limiter.sample(0.010)
    assert world.limiter.describe()["latency"] == 0.040


def test_recalibration() -> None:
    """Under the least limit, with requests that began under it; then the limit is as before."""
    world = World(initial=40, min=3, recalibrate=60, max=45)
    world.calibrate(0.010)
    world.clock.advance(70)
    world.limiter.sample(0.010)
    assert world.limit == 3
    assert world.limiter.describe()["calibrating"]
    # These began before, under the other limit.
    world.run(5.0, 2 * CALIBRATION)
    assert world.limit == 3
    world.clock.advance(10)
    world.run(0.030, CALIBRATION)
    assert world.limit == 45
    assert world.limiter.describe()["least_latency"] == 0.030


def test_a_least_limit_that_cannot_be_left() -> None:
    """After some intervals there the least latency is measured anew: the endpoint became slower."""
    world = World(initial=4, min=3, recalibrate=80000)
    world.calibrate(0.001)
    for _ in range(STUCK + 2):
        world.run(0.100, 1, every=0.2)
    assert world.limiter.describe()["calibrating"]
    world.clock.advance(1)
    world.run(0.100, CALIBRATION)
    assert world.limiter.describe()["least_latency"] == 0.100
    world.run(0.100, 5, every=0.2)
    assert world.limit > 4


def test_the_memory_is_bounded() -> None:
    """However many samples an interval has."""
    world = World(interval=1000)
    world.calibrate()
    world.run(0.001, 5 * MOST)
    assert len(world.limiter._samples) == MOST


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 2)), max_size=300))
def test_always_within_bounds(samples: list[tuple[float, float]]) -> None:
    """Whatever the latencies and their times."""
    world = World(initial=20, min=5, max=60, interval=0.1, recalibrate=5)
    world.calibrate()
    for seconds, pause in samples:
        world.run(seconds, every=pause)
        assert 5 <= world.limit <= 60
        assert isinstance(world.limit, int)


def test_the_endpoint_is_told() -> None:
    """What is set is what the endpoint's room goes by."""
    world = World(initial=2, min=1)
    endpoint: Endpoint = world.endpoint
    endpoint.active = 1
    assert endpoint.room(0.0)
    endpoint.active = 2
    assert not endpoint.room(0.0)


def test_equal_bounds_are_not_stuck() -> None:
    """A fixed limit is no reason to measure."""
    world = World(initial=5, min=5, max=5, recalibrate=80000)
    world.calibrate()
    world.run(0.5, 3 * STUCK, every=0.2)
    assert not world.limiter.describe()["calibrating"]
    assert world.limit == pytest.approx(5)
