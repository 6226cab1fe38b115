"""The work that every proxy is given."""

from __future__ import annotations

from statistics import mean

from tests.benchmarks.plan import ROUTE_COUNT, asked_prefixes, http_plan


def test_no_route_shadows_another() -> None:
    """All hundred prefixes differ and none begins another: first match and longest match agree."""
    prefixes = [route.prefix for route in http_plan([1, 2, 3, 4]).routes]
    assert len(set(prefixes)) == ROUTE_COUNT
    assert not any(one != other and one.startswith(other) for one in prefixes for other in prefixes)


def test_routes_are_dealt_over_every_cluster() -> None:
    """Each backend port is one cluster with a fair share of the routes."""
    plan = http_plan([11, 12, 13, 14])
    assert sorted(plan.clusters.values()) == [11, 12, 13, 14]
    counts = {name: sum(route.cluster == name for route in plan.routes) for name in plan.clusters}
    assert set(counts.values()) == {ROUTE_COUNT // 4}


def test_asked_prefixes_lie_about_the_middle_of_the_table_and_in_every_cluster() -> None:
    """A linear scan meets its mean depth, neither the first route's nor the last's."""
    plan = http_plan([1, 2, 3])
    places = {route.prefix: number for number, route in enumerate(plan.routes)}
    asked = asked_prefixes(plan)
    assert len(asked) == ROUTE_COUNT // 4
    assert abs(mean(places[prefix] for prefix in asked) - ROUTE_COUNT / 2) <= 1
    assert {plan.routes[places[prefix]].cluster for prefix in asked} == set(plan.clusters)
