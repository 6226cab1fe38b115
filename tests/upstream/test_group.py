"""Groups: what a route chooses from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from meshproxy.upstream import group as module
from meshproxy.upstream.cluster import Cluster
from meshproxy.upstream.endpoint import CLOSED, HALF_OPEN, OPEN, Endpoint
from meshproxy.upstream.group import Group
from meshproxy.upstream.hashing import rehash
from tests.upstream.made import cluster, spec

ALL = ["round_robin", "random", "least_request", "ring_hash", "maglev"]
HASHES = ["ring_hash", "maglev"]
KEYS = [rehash(number, 1) for number in range(2000)]


def picked(group: Group, times: int = 200) -> Counter[Endpoint | None]:
    """Who was chosen how often."""
    return Counter(group.pick() for _ in range(times))


def unwell(made: Cluster, *numbers: int) -> None:
    """These endpoints fail their checks, the others pass."""
    for number, endpoint in enumerate(made.endpoints):
        endpoint.healthy = number not in numbers
    made.changed()


def near(count: int, times: int, part: float) -> bool:
    """Whether chance can explain it: six standard deviations."""
    slack: float = 6 * (times * part * (1 - part)) ** 0.5 + 1
    return abs(count - times * part) <= slack


# The plain case.


def test_by_hash() -> None:
    """A group knows whether the cluster balances by hash."""
    assert cluster(balance="maglev").group().by_hash
    assert not cluster().group().by_hash


@pytest.mark.parametrize("balance", ["round_robin", "random", "least_request"])
def test_the_plain_pick_is_the_balancers_own(balance: str) -> None:
    """With one priority and nothing to look at besides, nothing stands between."""
    group = cluster([spec(1), spec(2)], balance=balance).group()
    (made,) = group._balancers.values()
    assert group.pick == made.pick
    assert group.pick_by(5) in group.cluster.endpoints


@pytest.mark.parametrize("balance", HASHES)
def test_the_plain_pick_by_is_the_tables_own(balance: str) -> None:
    """The same for hashes; without a number chance decides."""
    group = cluster([spec(1), spec(2)], balance=balance).group()
    (table,) = group._tables.values()
    assert group.pick_by == table.pick_by
    assert set(picked(group)) == set(group.cluster.endpoints)


@pytest.mark.parametrize("balance", ALL)
def test_nobody(balance: str) -> None:
    """Without an endpoint, and when none is well, None; nobody is full then."""
    made = cluster([], balance=balance, panic_threshold=0)
    group = made.group()
    assert (group.pick(), group.pick_by(7), group.pick_other([])) == (None, None, None)
    made.update([spec(1), spec(2)])
    assert group.pick() is not None
    unwell(made, 0, 1)
    assert (group.pick(), group.pick_by(7), group.pick_other([], 7)) == (None, None, None)
    assert not group.full()


@pytest.mark.parametrize("balance", ALL)
def test_the_unwell_get_nothing(balance: str) -> None:
    """Failing checks or a breaker that is not closed; and they come back."""
    made = cluster([spec(n) for n in range(1, 8)], balance=balance)
    group = made.group()
    one, two, three, *others = made.endpoints
    one.healthy, two.breaker, three.breaker = False, OPEN, HALF_OPEN
    made.changed()
    assert set(picked(group)) == set(others)
    assert {group.pick_by(key) for key in KEYS} == set(others)
    one.healthy, two.breaker, three.breaker = True, CLOSED, CLOSED
    made.changed()
    assert set(picked(group)) == set(made.endpoints)


# Panic and priorities.


@pytest.mark.parametrize("balance", ALL)
def test_panic(balance: str) -> None:
    """Below the threshold checks are not believed, open breakers are."""
    made = cluster([spec(n) for n in range(1, 6)], balance=balance)
    group = made.group()
    made.endpoints[4].breaker = OPEN
    unwell(made, 0, 1, 2)
    assert set(picked(group)) == set(made.endpoints[:4])
    assert {group.pick_by(key) for key in KEYS} == set(made.endpoints[:4])
    assert not made.endpoints[4].usable
    unwell(made, 0, 1)
    made.endpoints[4].breaker = CLOSED
    made.changed()
    assert set(picked(group)) == set(made.endpoints[2:])


@pytest.mark.parametrize("balance", ALL)
def test_priorities(balance: str) -> None:
    """A backup gets nothing while enough is well, its part when not, all when nobody is."""
    specs = [spec(n) for n in range(1, 5)] + [spec(n, priority=1) for n in range(5, 9)]
    made = cluster(specs, balance=balance, panic_threshold=0)
    group = made.group()
    first, backups = set(made.endpoints[:4]), set(made.endpoints[4:])
    unwell(made, 0)
    assert set(picked(group)) == first - {made.endpoints[0]}
    unwell(made, 0, 1)
    count = picked(group, 4000)
    assert set(count) == {*made.endpoints[2:]}
    assert near(sum(count[e] for e in backups), 4000, 0.3)
    unwell(made, 0, 1, 2, 3)
    assert set(picked(group)) == backups
    unwell(made)
    assert set(picked(group)) == first


def test_an_unused_backup_costs_nothing() -> None:
    """While the first priority takes all, nothing stands between the balancer and its user."""
    made = cluster([spec(1), spec(2), spec(3, priority=1)])
    group = made.group()
    assert group.pick == group._balancers[0, ""].pick
    assert group.describe()["choosing_from"] == 2


def test_several_priorities_by_hash_are_steady() -> None:
    """The same number goes to the same endpoint, and the loads are as they should be."""
    specs = [spec(n) for n in range(1, 5)] + [spec(n, priority=1) for n in range(5, 9)]
    made = cluster(specs, balance="maglev", panic_threshold=0)
    group = made.group()
    unwell(made, 0, 1)
    before = [group.pick_by(key) for key in KEYS]
    assert before == [group.pick_by(key) for key in KEYS]
    backups = sum(1 for endpoint in before if endpoint in made.endpoints[4:])
    assert near(backups, len(KEYS), 0.3)


def test_a_panic_of_one_group_is_not_anothers() -> None:
    """An endpoint that is used in a subset's panic stays unused where enough others are well."""
    specs = [spec(1, labels={"v": "1"})] + [spec(n) for n in range(2, 9)]
    made = cluster(specs, balance="maglev")
    whole, subset = made.group(), made.group({"v": "1"})
    unwell(made, 0)
    bad = made.endpoints[0]
    assert subset.pick_by(1) is bad
    assert bad not in {whole.pick_by(key) for key in KEYS}
    assert bad not in {whole.pick_other([], key) for key in KEYS[:100]}


# Zones.


def test_zones() -> None:
    """The proxy's own zone first, as far as enough of it is well."""
    specs = [spec(n, zone="here") for n in range(1, 5)]
    specs += [spec(n, zone="there") for n in range(5, 9)]
    made = cluster(specs, zone="here", zone_aware=True)
    group = made.group()
    here, there = set(made.endpoints[:4]), set(made.endpoints[4:])
    assert set(picked(group)) == here
    unwell(made, 0)
    assert set(picked(group)) == here - {made.endpoints[0]}
    unwell(made, 0, 1)
    count = picked(group, 4000)
    assert near(sum(count[e] for e in there), 4000, 0.3)
    unwell(made, 0, 1, 2, 3)
    assert set(picked(group)) == there
    unwell(made, 4, 5, 6, 7)
    assert set(picked(group)) == here
    # In a panic zones do not matter.
    unwell(made, 0, 1, 2, 3, 4, 5, 6)
    assert set(picked(group)) == here | there


@pytest.mark.parametrize(("zone", "aware"), [("", True), ("here", False), ("nowhere", True)])
def test_no_zone_no_preference(zone: str, aware: bool) -> None:
    """Unless it is asked for, and the proxy's zone is known and has endpoints."""
    made = cluster([spec(1, zone="here"), spec(2, zone="there")], zone=zone, zone_aware=aware)
    assert set(picked(made.group())) == set(made.endpoints)


# Subsets.


def test_subsets() -> None:
    """Only endpoints with all of the labels; the cluster's own `subset` is added."""
    specs = [
        spec(1, labels={"v": "1", "stage": "live"}),
        spec(2, labels={"v": "2", "stage": "live"}),
        spec(3, labels={"v": "2"}),
    ]
    made = cluster(specs, subset={"stage": "live"})
    assert set(picked(made.group())) == set(made.endpoints[:2])
    assert set(picked(made.group({"v": "2"}))) == {made.endpoints[1]}
    assert made.group({"v": "2"}).holds(made.endpoints[1])
    assert not made.group({"v": "2"}).holds(made.endpoints[2])
    assert made.group({"v": "2"}) is made.group({"v": "2"})


@pytest.mark.parametrize(
    ("subsets", "expected"),
    [
        ({}, []),
        ({"fallback": "any"}, [0, 1, 2]),
        ({"fallback": "default", "default": {"v": "1"}}, [0]),
    ],
)
def test_when_nobody_has_the_labels(subsets: dict[str, Any], expected: list[int]) -> None:
    """What `fallback` says; whoever is fallen back on is held by the group."""
    made = cluster([spec(1, labels={"v": "1"}), spec(2), spec(3)], subsets=subsets)
    group = made.group({"v": "9"})
    assert group.fallback
    wanted = {made.endpoints[number] for number in expected}
    assert set(picked(group)) - {None} == wanted
    assert {e for e in made.endpoints if group.holds(e)} == wanted


def test_no_fallback_because_of_health() -> None:
    """Endpoints with the labels that are not well are still those that are asked for."""
    made = cluster([spec(1, labels={"v": "1"}), spec(2)], subsets={"fallback": "any"})
    group = made.group({"v": "1"})
    made.endpoints[0].breaker = OPEN
    made.changed()
    assert group.pick() is None


def test_labels_that_change() -> None:
    """An update moves an endpoint from group to group."""
    made = cluster([spec(1, labels={"v": "1"}), spec(2, labels={"v": "2"})])
    one, two = made.group({"v": "1"}), made.group({"v": "2"})
    made.update([spec(1, labels={"v": "2"}), spec(2, labels={"v": "2"})])
    assert one.pick() is None
    assert set(picked(two)) == set(made.endpoints)


# Another one.


@pytest.mark.parametrize("balance", ALL)
def test_pick_other(balance: str) -> None:
    """Not one of those tried while there are others; then any."""
    made = cluster([spec(n) for n in range(1, 21)], balance=balance)
    group = made.group()
    tried: list[Endpoint] = []
    for number in range(20):
        endpoint = group.pick_other(tried, KEYS[number])
        assert endpoint is not None
        assert endpoint not in tried
        tried.append(endpoint)
    assert group.pick_other(tried, 5) in tried
    assert group.pick_other(tried) in tried


@pytest.mark.parametrize("balance", ALL)
def test_pick_other_takes_a_backup(balance: str) -> None:
    """When everybody of the loaded priority was tried."""
    made = cluster([spec(1), spec(2, priority=1)], balance=balance)
    first, backup = made.endpoints
    assert made.group().pick_other([first], 5) is backup


def test_pick_other_by_hash_begins_with_the_key() -> None:
    """The key's own endpoint, when it was not tried; then always the same others."""
    group = cluster([spec(n) for n in range(1, 9)], balance="ring_hash").group()
    for key in KEYS[:50]:
        own = group.pick_by(key)
        assert own is not None
        assert group.pick_other([], key) is own
        assert group.pick_other([own], key) is not own


def test_pick_other_obeys_limits_and_health() -> None:
    """One that has enough or is not well is no other."""
    made = cluster([spec(n) for n in range(1, 5)], endpoint_limits={"concurrency": 1})
    first, second, third, fourth = made.endpoints
    second.active, third.breaker = 1, OPEN
    made.changed()
    group = made.group()
    assert {group.pick_other([first]) for _ in range(20)} == {fourth}
    assert {group.pick_other([first, fourth]) for _ in range(20)} <= {first, fourth}
    first.active = fourth.active = 1
    assert group.pick_other([]) is None
    assert group.full()


# Limits.


@pytest.mark.parametrize("balance", ALL)
def test_concurrency(balance: str) -> None:
    """Full endpoints are passed over; when all are, None, and that is for being full."""
    made = cluster(
        [spec(n) for n in range(1, 31)], balance=balance, endpoint_limits={"concurrency": 2}
    )
    group = made.group()
    for number in range(60):
        endpoint = group.pick_by(KEYS[0]) if number % 2 else group.pick()
        assert endpoint is not None
        endpoint.active += 1
        assert endpoint.active <= 2
    assert (group.pick(), group.pick_by(7), group.pick_other([])) == (None, None, None)
    assert group.full()
    made.endpoints[17].active = 1
    assert group.pick() is made.endpoints[17]


@pytest.mark.parametrize("balance", ALL)
def test_rate(balance: str) -> None:
    """Each pick takes a token of the one that is picked, and of no other."""
    clock = Clock()
    made = cluster(
        [spec(n) for n in range(1, 4)],
        clock=clock,
        balance=balance,
        endpoint_limits={"rate": {"requests": 10, "burst": 5}},
    )
    group = made.group()
    assert picked(group, 15) == dict.fromkeys(made.endpoints, 5)
    assert group.pick() is None
    assert group.full()
    clock.advance(0.1)
    assert {group.pick_other([made.endpoints[0]]) for _ in range(2)} == set(made.endpoints[1:])
    assert group.pick() is made.endpoints[0]
    assert group.pick_by(3) is None


def test_limits_send_to_backups_last() -> None:
    """A backup is used when everybody before it has enough."""
    made = cluster([spec(1), spec(2), spec(3, priority=1)], endpoint_limits={"concurrency": 1})
    group = made.group()
    chosen = []
    for _ in range(3):
        endpoint = group.pick()
        assert endpoint is not None
        endpoint.active += 1
        chosen.append(endpoint)
    assert chosen[2] is made.endpoints[2]


def test_a_search_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a huge cluster that is full, a pick looks at so many and no more."""
    looked = []

    class Counted(Endpoint):
        def room(self, now: float) -> bool:
            looked.append(self)
            return super().room(now)

    monkeypatch.setattr("meshproxy.upstream.cluster.Endpoint", Counted)
    specs = [spec(n, priority=n % 2) for n in range(1, 3001)]
    made = cluster(specs, endpoint_limits={"concurrency": 1})
    group = made.group()
    for endpoint in made.endpoints:
        endpoint.active = 1
    assert group.pick() is None
    assert len(looked) <= module.SCANNED + module.TRIES


def test_not_full_without_limits() -> None:
    """None is then for health alone."""
    made = cluster([spec(1)])
    assert not made.group().full()


# Offers.


@pytest.mark.parametrize("balance", ALL)
def test_an_offer_is_taken_once(balance: str) -> None:
    """The next pick, by whatever number, is the probe; those after it are as before."""
    made = cluster([spec(n) for n in range(1, 4)], balance=balance)
    group = made.group()
    probe = made.endpoints[0]
    probe.breaker = HALF_OPEN
    made.changed()
    plain, plain_by = group.pick, group.pick_by
    for take in (lambda: group.pick_by(KEYS[3]), lambda: group.pick()):
        made.offer(probe)
        made.offer(probe)
        assert take() is probe
        assert (group.pick, group.pick_by) == (plain, plain_by)
        assert probe not in picked(group)


def test_an_offer_survives_a_refresh() -> None:
    """Health that changes meanwhile does not lose it."""
    made = cluster([spec(n) for n in range(1, 4)], panic_threshold=0)
    group = made.group()
    probe = made.endpoints[0]
    probe.breaker = HALF_OPEN
    made.changed()
    made.offer(probe)
    unwell(made, 1)
    assert group.pick() is probe
    assert set(picked(group)) == {made.endpoints[2]}


def test_an_offer_is_one_for_all_groups() -> None:
    """Only a group that holds the endpoint takes it, and then no other does."""
    made = cluster([spec(1, labels={"v": "1"}), spec(2, labels={"v": "2"}), spec(3)])
    whole, one, two = made.group(), made.group({"v": "1"}), made.group({"v": "2"})
    probe = made.endpoints[0]
    probe.breaker = HALF_OPEN
    made.changed()
    made.offer(probe)
    assert two.pick() is made.endpoints[1]
    assert whole.pick() is probe
    assert one.pick() is None
    made.offer(probe)
    assert one.pick() is probe
    assert probe not in picked(whole)


def test_an_offer_that_lapsed() -> None:
    """An endpoint whose breaker closed or opened, or that is gone, is offered no more."""
    made = cluster([spec(n) for n in range(1, 4)])
    group = made.group()
    plain = group.pick
    for change in (CLOSED, OPEN):
        probe = made.endpoints[0]
        probe.breaker = HALF_OPEN
        made.offer(probe)
        probe.breaker = change
        group.pick()
        assert made.offers == []
    assert group.pick == plain
    made.endpoints[0].breaker = HALF_OPEN
    made.offer(made.endpoints[0])
    gone = made.endpoints[0]
    made.update([spec(2), spec(3)])
    assert made.offers == []
    made.offer(gone)
    assert gone not in picked(group)


def test_an_offer_waits_for_room_and_health() -> None:
    """A probe under its limits only, and not where the checks fail anyway."""
    made = cluster([spec(1), spec(2)], endpoint_limits={"concurrency": 1})
    group = made.group()
    probe, other = made.endpoints
    probe.breaker, probe.active = HALF_OPEN, 1
    made.changed()
    made.offer(probe)
    assert group.pick() is other
    probe.active, probe.healthy = 0, False
    assert group.pick() is other
    probe.healthy = True
    assert group.pick() is probe


def test_the_breaker_is_told() -> None:
    """Whoever takes the offer says so, before anything else happens."""
    made = cluster([spec(1), spec(2)], circuit_breaker={})
    heard: list[Endpoint] = []

    class Judge:
        taken: Callable[[Endpoint], None] = heard.append

    made.breaker = Judge()  # type: ignore[assignment]
    probe = made.endpoints[0]
    probe.breaker = HALF_OPEN
    made.changed()
    made.offer(probe)
    made.group().pick()
    assert heard == [probe]


# Changes.


def test_round_robin_goes_on_after_a_change() -> None:
    """A change of somebody's health does not begin with the first again."""
    made = cluster([spec(n) for n in range(1, 5)])
    group = made.group()
    first, second, third, _ = made.endpoints
    assert [group.pick(), group.pick()] == [first, second]
    unwell(made, 3)
    assert [group.pick(), group.pick()] == [third, first]
    unwell(made)
    assert group.pick() is second


@pytest.mark.parametrize("balance", ALL)
def test_one_that_is_gone_is_not_kept(balance: str) -> None:
    """No group chooses it, whatever was built before."""
    clock = Clock()
    made = cluster([spec(n) for n in range(1, 5)], clock=clock, balance=balance)
    group = made.group()
    gone = made.endpoints[0]
    made.update([spec(n) for n in range(2, 6)])
    assert gone not in picked(group)
    assert gone not in {group.pick_by(key) for key in KEYS}
    for _ in range(100):
        clock.advance(0.05)
    assert set(picked(group)) == set(made.endpoints)
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize("balance", HASHES)
def test_health_builds_no_table(balance: str) -> None:
    """Nor does an update that changes nothing a table goes by."""
    made = cluster([spec(n) for n in range(1, 5)], balance=balance)
    made.group()
    unwell(made, 1)
    made.update([spec(n, labels={"a": "b"}) for n in (4, 3, 2, 1)])
    assert len(made.yard) == 0
    made.update([spec(n, 2) for n in range(1, 6)])
    assert len(made.yard) == 1


def test_shares_of_weights() -> None:
    """Weights of the endpoints reach the balancer, also after an update."""
    made = cluster([spec(1, 1), spec(2, 3)])
    group = made.group()
    assert picked(group, 400) == {made.endpoints[0]: 100, made.endpoints[1]: 300}
    made.update([spec(1, 3), spec(2, 1)])
    count = picked(group, 400)
    assert count[made.endpoints[0]] == pytest.approx(300, abs=2)
