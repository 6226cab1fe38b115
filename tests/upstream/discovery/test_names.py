"""From names to endpoints: strict, logical and SRV, and what is kept when something is missing."""

from __future__ import annotations

from socket import AF_INET, AF_INET6
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from meshproxy.upstream.discovery import names as module
from meshproxy.upstream.discovery.names import HostName, Learnt, ServiceName, ranked, scaled
from meshproxy.upstream.discovery.resolver import LookupFailed, Service
from tests.upstream.discovery.made import FakeResolver, both, endpoint

FULL: dict[str, Any] = {
    "address": "Api.test:80",
    "weight": 3,
    "priority": 2,
    "labels": {"version": "v2"},
    "zone": "b",
    "health_check": {"port": 9},
}
SRV = "_x._tcp.test"


def now(coroutine: Any) -> Any:
    """The result of what does not wait."""
    got: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(got.append)
    if isinstance(getattr(got[0], "value", None), Exception):
        raise got[0].value
    return got[0]


@pytest.fixture
def resolver() -> FakeResolver:
    """It says what it is told to."""
    return FakeResolver()


def look(name: HostName | ServiceName) -> Learnt:
    """One look-up."""
    learnt = now(name.look())
    assert isinstance(learnt, Learnt)
    return learnt


def keys(learnt: Learnt) -> list[str]:
    """The endpoints."""
    return [spec.key for spec in learnt.specs]


def test_strict(resolver: FakeResolver) -> None:
    """Each address is an endpoint that has everything the configuration says of the name."""
    resolver.hosts["api.test"] = both("10.0.0.10 10.0.0.9", "fd00::1", ttl=7)
    learnt = look(HostName(endpoint(FULL), resolver, False))
    assert keys(learnt) == ["10.0.0.9:80", "10.0.0.10:80", "[fd00::1]:80"]
    four, _, six = learnt.specs
    assert (four.family, four.sockaddr, four.text) == (AF_INET, ("10.0.0.9", 80), "10.0.0.9:80")
    assert (six.family, six.sockaddr, six.text) == (AF_INET6, ("fd00::1", 80), "[fd00::1]:80")
    for spec in learnt.specs:
        assert (spec.weight, spec.priority, spec.zone, spec.name) == (3, 2, "b", "api.test")
        assert (spec.labels, spec.check_port, spec.checked) == ({"version": "v2"}, 9, True)
    assert (learnt.ttl, learnt.problem) == (7, "")


def test_rotation_is_no_change(resolver: FakeResolver) -> None:
    """The same addresses in another order are the same endpoints in the same order."""
    name = HostName(endpoint("api.test:80"), resolver, False)
    resolver.hosts["api.test"] = both("10.0.0.1 10.0.0.2 10.0.0.3")
    first = look(name)
    resolver.hosts["api.test"] = both("10.0.0.3 10.0.0.1 10.0.0.2")
    assert look(name) == first


def test_a_name_that_is_absolute(resolver: FakeResolver) -> None:
    """The dot is for the resolver; whoever asks the endpoint by name leaves it out."""
    resolver.hosts["api.test."] = both("10.0.0.1")
    (spec,) = look(HostName(endpoint("api.test.:80"), resolver, False)).specs
    assert spec.name == "api.test"


def test_a_family_that_nobody_could_tell_stays(resolver: FakeResolver) -> None:
    """Only the server's own word that there is none of it takes it away."""
    name = HostName(endpoint("api.test:80"), resolver, False)
    resolver.hosts["api.test"] = both("10.0.0.1", "fd00::1")
    look(name)
    resolver.hosts["api.test"] = both("10.0.0.2", "?", problem="AAAA: SERVFAIL")
    learnt = look(name)
    assert keys(learnt) == ["10.0.0.2:80", "[fd00::1]:80"]
    assert learnt.problem == "AAAA: SERVFAIL"
    resolver.hosts["api.test"] = both("10.0.0.2", "")
    assert keys(look(name)) == ["10.0.0.2:80"]


def test_at_most_a_thousand(resolver: FakeResolver) -> None:
    """The first by address, so that rotation does not change them."""
    many = [f"10.0.{number // 250}.{number % 250}" for number in range(1500)]
    resolver.hosts["api.test"] = both(" ".join(reversed(many)))
    learnt = look(HostName(endpoint("api.test:80"), resolver, False))
    assert keys(learnt) == [f"{address}:80" for address in many[:1000]]


def test_logical(resolver: FakeResolver) -> None:
    """One endpoint, known by its name, at the first IPv4 address there is."""
    resolver.hosts["api.test"] = both("10.0.0.2 10.0.0.1", "fd00::1")
    (spec,) = look(HostName(endpoint(FULL), resolver, True)).specs
    assert (spec.key, spec.text, spec.name) == ("api.test:80", "10.0.0.2:80", "api.test")
    resolver.hosts["api.test"] = both("", "fd00::2 fd00::1")
    (spec,) = look(HostName(endpoint(FULL), resolver, True)).specs
    assert (spec.key, spec.text) == ("api.test:80", "[fd00::2]:80")


def test_logical_stays_where_it_is(resolver: FakeResolver) -> None:
    """While the answers name its address; then it is the same endpoint at another."""
    name = HostName(endpoint("api.test:80"), resolver, True)
    resolver.hosts["api.test"] = both("10.0.0.1 10.0.0.2")
    first = look(name)
    resolver.hosts["api.test"] = both("10.0.0.2 10.0.0.1")
    assert look(name) == first
    resolver.hosts["api.test"] = both("10.0.0.3 10.0.0.2")
    (spec,) = look(name).specs
    assert (spec.key, spec.text) == ("api.test:80", "10.0.0.3:80")


def service(resolver: FakeResolver, **more: Any) -> ServiceName:
    """The service's name."""
    return ServiceName(endpoint({"srv": SRV, **more}), resolver)


def test_services(resolver: FakeResolver) -> None:
    """Targets are looked up; ports, weights and priorities are the records'."""
    resolver.srv[SRV] = (
        [
            Service(20, 7, 82, "B.test."),
            Service(10, 0, 80, "a.test."),
            Service(10, 5, 81, "a.test."),
        ],
        30,
    )
    resolver.hosts["a.test."] = both("10.0.0.1", "fd00::1", ttl=20)
    resolver.hosts["b.test."] = both("10.0.0.2", ttl=None)
    learnt = look(service(resolver, labels={"v": "1"}, zone="z"))
    assert [(s.key, s.weight, s.priority, s.name) for s in learnt.specs] == [
        ("10.0.0.1:80", 1, 0, "a.test"),
        ("[fd00::1]:80", 1, 0, "a.test"),
        ("10.0.0.1:81", 5, 0, "a.test"),
        ("[fd00::1]:81", 5, 0, "a.test"),
        ("10.0.0.2:82", 7, 1, "b.test"),
    ]
    assert {(spec.zone, spec.labels["v"]) for spec in learnt.specs} == {("z", "1")}
    assert learnt.ttl == 20
    assert sorted(resolver.asked) == [SRV, "a.test.", "b.test."]


def test_a_service_that_is_a_backup(resolver: FakeResolver) -> None:
    """The configuration's priority is added to those of the records, up to the last there is."""
    resolver.srv[SRV] = ([Service(n, 1, 80 + n, "a.test.") for n in range(20)], 30)
    resolver.hosts["a.test."] = both("10.0.0.1")
    specs = look(service(resolver, priority=3)).specs
    assert [spec.priority for spec in specs] == [*range(3, 16), *[15] * 7]


def test_no_such_service_on_purpose(resolver: FakeResolver) -> None:
    """A target of "." is an answer: no endpoints (RFC 2782)."""
    resolver.srv[SRV] = ([Service(0, 0, 0, ".")], 30)
    assert look(service(resolver)) == Learnt((), 30)


def test_a_target_that_fails_stays(resolver: FakeResolver) -> None:
    """As it was known last; a target that the records do not name any more is forgotten."""
    name = service(resolver)
    records = [Service(0, 1, 80, "a.test."), Service(0, 1, 80, "b.test.")]
    resolver.srv[SRV] = (records, 30)
    resolver.hosts["a.test."] = both("10.0.0.1")
    resolver.hosts["b.test."] = both("10.0.0.2")
    assert keys(look(name)) == ["10.0.0.1:80", "10.0.0.2:80"]
    resolver.hosts["b.test."] = LookupFailed("SERVFAIL")
    learnt = look(name)
    assert keys(learnt) == ["10.0.0.1:80", "10.0.0.2:80"]
    assert learnt.problem == "b.test. SERVFAIL"
    resolver.srv[SRV] = (records[:1], 30)
    assert keys(look(name)) == ["10.0.0.1:80"]
    resolver.srv[SRV] = (records, 30)
    assert keys(look(name)) == ["10.0.0.1:80"]


def test_all_targets_fail(resolver: FakeResolver) -> None:
    """Where nothing was known, nothing was learnt."""
    resolver.srv[SRV] = ([Service(0, 1, 80, "a.test.")], 30)
    resolver.hosts["a.test."] = LookupFailed("SERVFAIL")
    with pytest.raises(LookupFailed, match=r"a\.test\. SERVFAIL"):
        look(service(resolver))


def test_a_target_without_a_family(resolver: FakeResolver) -> None:
    """What nobody could tell of a target is a problem, not a failure."""
    resolver.srv[SRV] = ([Service(0, 1, 80, "a.test.")], 30)
    resolver.hosts["a.test."] = both("10.0.0.1", "?", problem="AAAA: SERVFAIL")
    learnt = look(service(resolver))
    assert (keys(learnt), learnt.problem) == (["10.0.0.1:80"], "a.test. AAAA: SERVFAIL")


def test_the_same_address_by_two_targets(resolver: FakeResolver) -> None:
    """One endpoint, with what the first record says; a record of port 0 is none."""
    resolver.srv[SRV] = (
        [Service(0, 1, 80, "a.test."), Service(1, 9, 80, "b.test."), Service(0, 1, 0, "a.test.")],
        30,
    )
    resolver.hosts["a.test."] = resolver.hosts["b.test."] = both("10.0.0.1")
    (spec,) = look(service(resolver)).specs
    assert (spec.key, spec.weight, spec.name) == ("10.0.0.1:80", 1, "a.test")


def test_bounded_targets_at_a_time(resolver: FakeResolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many targets are looked up some at a time."""
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    targets = [f"t{number}.test." for number in range(5)]
    resolver.srv[SRV] = ([Service(0, 1, 80, target) for target in targets], 30)
    got: list[Any] = []
    Deferred.fromCoroutine(service(resolver).look()).addBoth(got.append)
    for count in (2, 4, 5):
        assert len(resolver.asked) == 1 + count
        for target in list(resolver.waiting):
            resolver.tell(target, both(f"10.0.0.{target[1]}"))
    assert len(got[0].specs) == 5


@given(st.lists(st.integers(0, 65535), max_size=30))
def test_scaled_weights(weights: list[int]) -> None:
    """From 1 to 1000, in the same order; where they fit they are what they were, but for 0."""
    found = scaled(weights)
    assert all(1 <= weight <= 1000 for weight in found)
    most = max(weights, default=0)
    for given_, made in zip(weights, found, strict=True):
        if most <= 1000:
            assert made == (given_ or 1)
        else:
            assert abs(made - given_ * 1000 / most) <= 1


@given(st.lists(st.integers(0, 65535), max_size=30))
def test_ranked_priorities(priorities: list[int]) -> None:
    """From 0 without gaps, in the same order; from the sixteenth on all are the last."""
    found = ranked(priorities)
    distinct = sorted(set(priorities))
    assert found == [min(distinct.index(value), 15) for value in priorities]


@pytest.mark.parametrize("logical", [False, True])
def test_the_name_that_tls_verifies(resolver: FakeResolver, logical: bool) -> None:
    """What was written, whatever it is an alias of and however it was completed; or another."""
    resolver.hosts["api.test."] = resolver.hosts["api.test"] = both("10.0.0.1 10.0.0.2", "", ttl=7)
    for written, more, expected in (
        ("Api.test:443", {}, "api.test"),
        ("api.test.:443", {}, "api.test"),
        ("api.test:443", {"server_name": "other.test"}, "other.test"),
    ):
        learnt = look(HostName(endpoint({"address": written, **more}), resolver, logical))
        assert {spec.server_name for spec in learnt.specs} == {expected}


def test_the_name_that_tls_verifies_of_a_service(resolver: FakeResolver) -> None:
    """The domain that was asked for: a name server must not choose whom we believe."""
    resolver.srv["_api._tcp.mesh.test"] = ([Service(0, 0, 443, "evil.test.")], 30)
    resolver.hosts["evil.test."] = both("10.0.0.1", "", ttl=7)
    for more, expected in (({}, "mesh.test"), ({"server_name": "b.test"}, "b.test")):
        name = ServiceName(endpoint({"srv": "_api._tcp.mesh.test", **more}), resolver)
        (spec,) = look(name).specs
        assert (spec.name, spec.server_name) == ("evil.test", expected)
