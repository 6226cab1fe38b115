"""Circuit breakers against a plain model, whatever happens in whatever order."""

from __future__ import annotations

from math import floor

from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.upstream.endpoint import CLOSED, HALF_OPEN, OPEN
from tests.upstream.breaking import World


class Reference:
    """What one endpoint's breaker is, said as plainly as possible; times are whole seconds."""

    def __init__(self, threshold: int, base: int, longest: int, interval: int) -> None:
        self.threshold, self.base, self.longest = threshold, base, longest
        self.interval = interval
        self.state = CLOSED
        self.row = 0
        self.times = 0
        self.until = 0.0
        self.taken = False
        self.quiet = 0.0

    def open(self, now: float) -> None:
        """Begin an ejection."""
        if self.base * self.times < self.longest:
            self.times += 1
        self.state, self.taken = OPEN, False
        self.until = now + min(self.base * self.times, self.longest)

    def close(self, now: float) -> None:
        """End it."""
        self.state, self.row, self.quiet = CLOSED, 0, now

    def pass_time(self, now: float) -> None:
        """Do what became due."""
        if self.state == OPEN and now >= self.until:
            self.state = HALF_OPEN
        while self.state == CLOSED and self.times and now >= self.quiet + self.interval:
            self.times -= 1
            self.quiet += self.interval


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["fail", "fail", "fail", "answer", "probe", "wait", "close", "remove"]),
        st.integers(0, 4),
        st.integers(1, 12),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.integers(1, 3), st.sampled_from([0, 25, 40, 60, 100]))
def test_any_interleaving(steps: list[tuple[str, int, int]], threshold: int, percent: int) -> None:
    """
    Whatever happens in whatever order, each breaker is what a plain model says, no more are open
    than may be, failures stay above 0 while one is not closed, and every opening ends.
    """
    world = World(
        5,
        failure_threshold=threshold,
        base_ejection_time="4s",
        max_ejection_time="10s",
        interval="7s",
        max_ejection_percent=percent,
    )
    models = {endpoint: Reference(threshold, 4, 10, 7) for endpoint in world.all}
    seconds = 0.0

    def wait_until(end: float) -> None:
        while world.clock.seconds() < end:
            world.clock.advance(min(0.05, end - world.clock.seconds()))

    for what, number, amount in steps:
        now = world.clock.seconds()
        endpoint = world.all[number]
        model = models[endpoint]
        allowed = max(1, floor(len(world.cluster.endpoints) * percent / 100))
        out = sum(
            each.state != CLOSED for it, each in models.items() if it in world.cluster.endpoints
        )
        if endpoint not in world.cluster.endpoints:
            continue
        if what == "fail":
            world.fail(endpoint)
            if model.state == CLOSED:
                model.row += 1
                if model.row >= threshold and out < allowed:
                    model.open(now)
            elif model.state == HALF_OPEN and model.taken:
                model.open(now)
        elif what == "answer":
            world.answer(endpoint)
            if model.state == CLOSED:
                model.row = 0
            elif model.state == HALF_OPEN and model.taken:
                model.close(now)
        elif what == "probe":
            if endpoint.breaker == HALF_OPEN:
                assert endpoint in world.offers
                world.breaker.taken(endpoint)
                endpoint.active = 1
                model.taken = True
        elif what == "close":
            world.breaker.close(endpoint, "health")
            if model.state != CLOSED:
                model.close(now)
        elif what == "remove":
            if amount > 10 and len(world.cluster.endpoints) > 2:
                world.cluster.update([e.spec for e in world.cluster.endpoints if e != endpoint])
        else:
            # Whole seconds and a little: after what is due, before what is not.
            seconds += amount
            wait_until(seconds + 0.12)
            for each in models.values():
                each.pass_time(world.clock.seconds() - 0.06)
        present = world.cluster.endpoints
        assert [e.breaker for e in present] == [models[e].state for e in present]
        assert all(e.failures >= 1 for e in present if e.breaker != CLOSED)
        if what == "fail" and out <= allowed:
            assert sum(e.breaker != CLOSED for e in present) <= allowed
        assert [world.times(e) for e in present] == [models[e].times for e in present]
    wait_until(seconds + 11)
    assert all(e.breaker != OPEN for e in world.cluster.endpoints)
    world.breaker.stop()
    assert not len(world.cluster.wheel)
