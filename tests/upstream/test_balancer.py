"""The choice of an endpoint: shares, smoothness, and costs that do not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from meshproxy.interfaces import IBalancer
from meshproxy.observe.fitted import Chosen
from meshproxy.observe.registry import Registry
from meshproxy.upstream import balancer
from meshproxy.upstream.balancer import BALANCERS, Foreign, LeastRequest, Random, RoundRobin
from meshproxy.upstream.endpoint import Endpoint
from tests.upstream.made import endpoints, spec

weights = st.lists(st.integers(1, 1000), min_size=1, max_size=12)


@pytest.mark.parametrize("name", sorted(BALANCERS))
@pytest.mark.parametrize("weighing", [(1,), (1, 1, 1), (5, 1)])
def test_every_balancer(name: str, weighing: tuple[int, ...]) -> None:
    """Each provides the interface and yields its endpoints, all of them in time."""
    held = endpoints(*weighing)
    made = BALANCERS[name](held, None)
    assert verifyObject(IBalancer, made)
    assert {made.pick() for _ in range(500)} == set(held)


def test_round_robin_in_turn() -> None:
    """With equal weights, strictly one after the other."""
    held = endpoints(7, 7, 7)
    pick = RoundRobin(held).pick
    assert [pick() for _ in range(7)] == [*held, *held, held[0]]


@settings(deadline=None)
@given(weights, st.integers(1, 300))
def test_round_robin_gives_each_its_share_at_any_time(weighing: list[int], picks: int) -> None:
    """After any number of picks nobody is a whole turn ahead of or behind its share."""
    held = endpoints(*weighing)
    pick = RoundRobin(held).pick
    count = Counter(pick() for _ in range(picks))
    total = sum(weighing)
    # Earliest deadline first: the count of each lies within one of weight × virtual time, and
    # virtual time within n / total of picks / total.
    slack = max(weighing) * len(held) / total + 1
    for endpoint in held:
        assert abs(count[endpoint] - picks * endpoint.weight / total) <= slack


def test_round_robin_is_smooth() -> None:
    """A heavy endpoint is interleaved with a light one, never in one run."""
    heavy, light = endpoints(3, 1)
    pick = RoundRobin([heavy, light]).pick
    order = "".join("H" if pick() is heavy else "l" for _ in range(40))
    assert order.count("l") == 10
    assert "ll" not in order
    assert "HHHH" not in order


def test_round_robin_after_a_long_time() -> None:
    """Shares stay exact when the schedule's clock is set back."""
    held = endpoints(2, 1)
    made = RoundRobin(held)
    made._heap = [(due + 1e9, n, period, e) for due, n, period, e in made._heap]
    count = Counter(made.pick() for _ in range(3000))
    assert count[held[0]] == pytest.approx(2000, abs=2)
    assert made._heap[0][0] < 1e6


def test_random_follows_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers spread evenly over [0, 1) give exactly the shares, the ends included."""
    held = endpoints(1, 2, 5)
    numbers: Iterator[float] = iter([n / 8 for n in range(8)] + [0.9999999999999999])
    monkeypatch.setattr(balancer, "random", lambda: next(numbers))
    pick = Random(held).pick
    assert Counter(pick() for _ in range(8)) == dict(zip(held, (1, 2, 5), strict=True))
    assert pick() is held[2]


def test_least_request_prefers_the_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two drawn, the one with less in flight for its weight; the first of equals."""
    busy, idle = endpoints(1, 1)
    draws = iter([0.0, 0.9, 0.9, 0.0, 0.0, 0.9])
    monkeypatch.setattr(balancer, "random", lambda: next(draws))
    pick = LeastRequest([busy, idle]).pick
    busy.active = 3
    assert pick() is idle
    assert pick() is idle
    idle.active = 3
    assert pick() is busy


def test_least_request_obeys_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three in flight on weight 4 is less than one on weight 1."""
    strong, weak = endpoints(4, 1)
    strong.active, weak.active = 3, 1
    monkeypatch.setattr(balancer, "random", iter([0.9, 0.0]).__next__)
    assert LeastRequest([strong, weak]).pick() is strong


def test_least_request_avoids_a_slow_endpoint() -> None:
    """An endpoint that never finishes gets few of many requests."""
    slow, *others = endpoints(1, 1, 1)
    pick = LeastRequest([slow, *others]).pick
    for _ in range(300):
        chosen = pick()
        if chosen is slow:
            slow.active += 1
    assert slow.active < 60


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_no_table_grows_with_the_weights(name: str) -> None:
    """Weights of 1000 hold no more than weights of 1."""

    def size(made: object) -> int:
        held = vars(made).values()
        return sum(len(value) for value in held if isinstance(value, list | tuple))

    small, large = (
        BALANCERS[name](endpoints(1, 2), None),
        BALANCERS[name](endpoints(999, 1000), None),
    )
    assert size(small) == size(large)


@pytest.mark.parametrize("name", ["random", "round_robin"])
def test_a_pick_does_not_look_at_every_endpoint(name: str) -> None:
    """A pick among a thousand touches a handful: O(1), or O(log n) with weights."""

    class Counted(Endpoint):
        touched = 0

        def __getattribute__(self, attribute: str) -> object:
            Counted.touched += 1
            return super().__getattribute__(attribute)

    held: list[Endpoint] = [Counted(spec(n + 1, n % 7 + 1)) for n in range(1000)]
    made = BALANCERS[name](held, None)
    Counted.touched = 0
    for _ in range(100):
        made.pick()
    assert Counted.touched <= 2000


@pytest.mark.parametrize("name", sorted(BALANCERS))
def test_shares_over_many_picks(name: str) -> None:
    """Over 10,000 picks each gets its weight's share, within six standard deviations."""
    held = endpoints(1, 2, 3, 4)
    pick = BALANCERS[name](held, None).pick
    count = Counter(pick() for _ in range(10_000))
    for endpoint in held:
        part = endpoint.weight / 10
        # Chance strays by sqrt(n p (1 - p)), at most twice that where two are drawn.
        slack = 2.0 if name == "round_robin" else 6 * 2 * (10_000 * part * (1 - part)) ** 0.5
        assert abs(count[endpoint] - 10_000 * part) <= slack


def longest_run(order: list[Endpoint]) -> int:
    """How often at most the same one comes in a row."""
    return max(len(list(group)) for _, group in groupby(order))


@pytest.mark.parametrize(
    ("weighing", "most"),
    [((5, 1, 1), 4), ((10, 10, 1), 2), ((4, 3, 2, 1), 2), ((100, 1), 101), ((3, 2), 2)],
)
def test_no_runs(weighing: tuple[int, ...], most: int) -> None:
    """A heavy endpoint comes as evenly as its share allows."""
    pick = RoundRobin(endpoints(*weighing)).pick
    assert longest_run([pick() for _ in range(1000)]) <= most


def test_equal_light_ones_are_spread() -> None:
    """Those of one weight do not come one after the other while a heavy one is there."""
    heavy, *light = endpoints(4, 1, 1, 1, 1)
    pick = RoundRobin([heavy, *light]).pick
    order = [pick() for _ in range(800)]
    assert longest_run(["H" if e is heavy else "l" for e in order]) <= 2  # type: ignore[misc]


@given(weights, st.integers(0, 50))
def test_a_rebuild_goes_on_where_it_was(weighing: list[int], picks: int) -> None:
    """Rebuilt before every pick, round robin still gives each its share."""
    held = endpoints(*weighing)
    made = RoundRobin(held)
    for _ in range(picks):
        made.pick()
    for _ in range(3):
        made = RoundRobin(held, made)
        assert all(0.0 <= phase <= 1.0 + 1e-6 for phase in made.phases().values())
    order = [made.pick() for _ in range(2 * len(held))]
    total = sum(weighing)
    slack = max(weighing) * len(held) / total + 2
    for endpoint in held:
        share = len(order) * endpoint.weight / total
        assert abs(order.count(endpoint) - share) <= slack


def test_frequent_rebuilds_favour_nobody() -> None:
    """One that goes and comes again and again leaves the turns of the others as they were."""
    held = endpoints(1, 1, 1, 1)
    made = RoundRobin(held)
    count: Counter[Endpoint] = Counter()
    for number in range(400):
        made = RoundRobin(held[:3] if number % 2 else held, made)
        count[made.pick()] += 1
    assert max(count[e] for e in held[:3]) - min(count[e] for e in held[:3]) <= 210
    assert min(count[e] for e in held[:3]) >= 60


def test_weights_that_change_keep_their_turns() -> None:
    """Each step of a slow start goes on where the last was: the sum of shares is what is given."""
    held = endpoints(1, 1, 1)
    made = RoundRobin(held)
    count: Counter[Endpoint] = Counter()
    expected = 0.0
    for step in range(1, 101):
        held[2].share = step / 100
        made = RoundRobin(held, made)
        for _ in range(7):
            count[made.pick()] += 1
        expected += 7 * held[2].share / (2 + held[2].share)
    assert count[held[2]] == pytest.approx(expected, abs=3)
    assert abs(count[held[0]] - count[held[1]]) <= 3


def test_least_request_of_two_takes_the_less_busy() -> None:
    """With equal shares the two that are compared differ: of two, always the idle one."""
    busy, idle = endpoints(2, 2)
    busy.active = 1
    pick = LeastRequest([busy, idle]).pick
    assert {pick() for _ in range(100)} == {idle}


class Strange:
    """A plugin's way to balance: what it makes is what it was given."""

    def __init__(self, makes: object) -> None:
        self.makes = makes
        self.seen: list[object] = []

    def balance(self, held: object) -> object:
        """It, or an error."""
        self.seen.append(held)
        if isinstance(self.makes, Exception):
            raise self.makes
        return self.makes


@pytest.mark.parametrize("makes", [ValueError("no"), None, SimpleNamespace(pick=5)])
def test_a_plugin_that_makes_no_balancer(makes: object) -> None:
    """It is counted each time, and the endpoints take turns as if it were not there."""
    registry = Registry()
    foreign = Foreign(Chosen(Strange(makes), "x", "balancer", "", "api", registry, lambda: 0.0))
    held = endpoints(1, 1, 1)
    first = foreign(held)
    assert [first.pick() for _ in range(3)] == held
    first.pick()
    second = foreign(held, first)
    assert second.pick() is held[1], "the turns go on"
    assert registry.values[0] == 2


def test_a_plugins_balancer_is_used_as_it_is() -> None:
    """The endpoints are a tuple of its own; what it returns is not wrapped."""
    held = endpoints(1, 2)
    made: Any = RoundRobin(held)
    strange = Strange(made)
    foreign = Foreign(Chosen(strange, "x", "balancer", "", "api", Registry(), lambda: 0.0))
    assert foreign(held) is made
    assert strange.seen == [tuple(held)]
