"""The filter rate_limit, in the real chain over fake transports."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from meshproxy.api import Response
from meshproxy.filters._rate import GcraTable, Rate, Taken
from meshproxy.filters.rate_limit import RateLimit
from meshproxy.interfaces import IRateStore, IResponseFilter
from meshproxy.testing import Driven, Kit, drive


def made(store: Any = None, **options: Any) -> RateLimit:
    """A filter with these options, as a configuration writes them."""
    return RateLimit(RateLimit.Options.model_validate(options), store)


def statuses(kit: Kit, held: RateLimit, count: int, **request: Any) -> list[int]:
    """The statuses of so many requests at once."""
    return [kit.drive(held, **request).status for _ in range(count)]


def test_over_the_limit_it_is_429_as_envoys() -> None:
    """The burst passes, the next is refused with Envoy's body and flag and with what to wait."""
    kit, held = Kit(), made(requests=10, per="10s", burst=2)
    assert statuses(kit, held, 2) == [200, 200]
    refused = kit.drive(held)
    assert (refused.status, refused.body) == (429, b"local_rate_limited")
    assert (refused.flags, refused.details) == (b"RL", b"rate_limited")
    assert refused.upstream is None
    assert refused.headers.get(b"retry-after") == b"1"
    assert refused.headers.get(b"ratelimit-policy") == b'"default";q=10;w=10'
    assert refused.headers.get(b"ratelimit") == b'"default";r=0;t=1'
    assert refused.metadata["ratelimit.limit"] == "default"
    assert kit.counters == {"answers": 1, "refused{limit=default}": 1}
    kit.advance(1.0)
    assert statuses(kit, held, 2) == [200, 429]


def test_each_client_has_its_own() -> None:
    """By the client's address unless told otherwise; one /64 of IPv6 is one client."""
    kit, held = Kit(), made(requests=1)
    assert statuses(kit, held, 2) == [200, 429]
    assert statuses(kit, held, 1, client=b"192.0.2.9:1") == [200]
    assert statuses(kit, held, 1, client=b"[2001:db8::1]:1") == [200]
    assert statuses(kit, held, 1, client=b"[2001:db8::2]:1") == [429]


def test_by_everyone() -> None:
    """``everyone`` is one bucket for all clients."""
    kit, held = Kit(), made(requests=1, by="everyone")
    assert statuses(kit, held, 1) == [200]
    assert statuses(kit, held, 1, client=b"192.0.2.9:1") == [429]


@pytest.mark.parametrize(
    ("missing", "expected"), [("share", [200, 429]), ("skip", [200, 200]), ("refuse", [400, 400])]
)
def test_who_does_not_say_who_he_is(missing: str, expected: list[int]) -> None:
    """Requests without the header share a bucket, are not counted, or are refused."""
    kit, held = Kit(), made(requests=1, by={"header": "x-key"}, missing=missing)
    assert statuses(kit, held, 2) == expected
    assert statuses(kit, held, 2, headers={b"x-key": b"k"}) == [200, 429]


def test_several_limits_must_all_allow() -> None:
    """The second limit refuses too, and says its own name and wait."""
    kit = Kit()
    held = made(limits=[{"requests": 2}, {"requests": 3, "per": "1m", "name": "minute"}])
    assert statuses(kit, held, 3) == [200, 200, 429]
    kit.advance(1.0)
    assert statuses(kit, held, 1) == [200]
    refused = kit.drive(held)
    assert refused.headers.get(b"ratelimit") == b'"minute";r=0;t=19'
    assert refused.headers.get(b"retry-after") == b"19"
    assert kit.counters["refused{limit=limit-1}"] == 1
    assert kit.counters["refused{limit=minute}"] == 1


@pytest.mark.parametrize("wrap", [None, succeed])
def test_who_is_refused_by_one_limit_takes_nothing_from_another(
    wrap: Callable[[Any], Any] | None,
) -> None:
    """
    A client that the second limit refuses again and again leaves the first as it was, also where
    the store answers with Deferreds.
    """
    kit = Kit()
    limits = [
        {"requests": 5, "per": "1h", "by": "everyone"},
        {"requests": 1, "per": "1h", "by": "client_ip"},
    ]
    held = made(None if wrap is None else _Store(wrap), limits=limits)
    assert statuses(kit, held, 50) == [200] + [429] * 49
    others = [kit.drive(held, client=b"192.0.2.%d:1" % number).status for number in range(2, 8)]
    assert others == [200, 200, 200, 200, 429, 429]


def test_a_missing_key_takes_nothing_either() -> None:
    """A request that the second limit refuses for want of a key gives back to the first."""
    kit = Kit()
    by_key = {"requests": 1, "by": {"header": "x-key"}, "missing": "refuse"}
    held = made(limits=[{"requests": 2, "per": "1h"}, by_key])
    assert statuses(kit, held, 9) == [400] * 9
    assert statuses(kit, held, 1, headers={b"x-key": b"a"}) == [200]
    assert statuses(kit, held, 1, headers={b"x-key": b"b"}) == [200]


def test_a_fixed_cost() -> None:
    """A request takes as much as is said."""
    assert statuses(Kit(), made(requests=10, cost=4), 4) == [200, 200, 429, 429]


@pytest.mark.parametrize(
    ("said", "taken"),
    [
        (b"3", 3),
        (b"0", 1),
        (b"9", 8),
        (b"-3", 8),
        (b"many", 8),
        (b"", 8),
        (None, 2),
        (b"9" * 30, 8),
    ],
)
def test_the_cost_that_a_header_says(said: bytes | None, taken: int) -> None:
    """Within 1 and ``max``; what is no number costs ``max``, without the header ``default``."""
    kit = Kit()
    cost = {"header": "x-cost", "max": 8, "default": 2}
    held = made(requests=10, cost=cost, headers="legacy", on_allowed=True)
    headers = {} if said is None else {b"x-cost": said}
    driven = kit.drive(held, headers=headers)
    assert driven.headers.get(b"x-ratelimit-remaining") == b"%d" % (10 - taken)


def test_only_what_matches_counts() -> None:
    """Other requests pass without limit, and without headers."""
    held = made(requests=1, match={"paths": {"prefix": "/api/"}}, on_allowed=True)
    kit = Kit()
    assert statuses(kit, held, 3) == [200] * 3
    assert b"ratelimit" not in kit.drive(held).headers
    assert statuses(kit, held, 2, target=b"/api/x") == [200, 429]


def test_headers_of_allowed_responses() -> None:
    """With ``on_allowed`` each response says what remains, beside what the upstream says."""
    kit, held = Kit(), made(requests=100, per="10s", on_allowed=True)
    first = kit.drive(held)
    assert first.headers.get(b"ratelimit-policy") == b'"default";q=100;w=10'
    assert first.headers.get(b"ratelimit") == b'"default";r=99;t=1'
    own = Response(200, b"", {b"ratelimit": b'"own";r=1'})
    second = kit.drive(held, response=own)
    assert second.headers.get_all(b"ratelimit") == [b'"own";r=1', b'"default";r=98;t=1']
    several = made(limits=[{"requests": 5}, {"requests": 9, "per": "1m"}], on_allowed=True)
    third = kit.drive(several)
    assert third.headers.get(b"ratelimit") == b'"limit-1";r=4;t=1, "limit-2";r=8;t=7'


def test_without_on_allowed_responses_are_not_looked_at() -> None:
    """A filter that tells nothing on allowed responses is not called for them."""
    assert not IResponseFilter.providedBy(made(requests=1))
    assert IResponseFilter.providedBy(made(requests=1, on_allowed=True))
    assert b"ratelimit" not in drive(made(requests=1)).headers


def test_the_older_headers_and_none() -> None:
    """``legacy`` takes the place of an upstream's, ``off`` leaves ``retry-after`` alone."""
    kit, held = Kit(), made(requests=2, per="1m", headers="legacy", on_allowed=True)
    own = Response(200, b"", {b"x-ratelimit-limit": b"7"})
    fields = dict(kit.drive(held, response=own).headers)
    names = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")
    assert [fields[name] for name in names] == [b"2", b"1", b"30"]
    kit.drive(held)
    fields = dict(kit.drive(held).headers)
    assert [fields[name] for name in names] == [b"2", b"0", b"60"]
    assert fields[b"retry-after"] == b"30"
    silent = made(requests=1, per="1m", headers="off")
    kit.drive(silent)
    assert {name for name, _ in kit.drive(silent).headers} & {b"ratelimit", *names} == set()


def test_shadow_refuses_nobody() -> None:
    """In shadow everything passes; what would be refused is counted and named."""
    kit, held = Kit(), made(requests=1, shadow=True)
    assert statuses(kit, held, 3) == [200] * 3
    driven = kit.drive(held)
    assert driven.metadata == {"ratelimit.shadow": "default"}
    assert kit.counters == {"refused{limit=default}": 3}
    strict = made(requests=1, by={"header": "x"}, missing="refuse", shadow=True)
    assert kit.drive(strict).status == 200


def test_another_answer() -> None:
    """Status and body can be set."""
    kit, held = Kit(), made(requests=1, status=503, body='{"error": "slow down"}\n')
    kit.drive(held)
    refused = kit.drive(held)
    assert (refused.status, refused.body) == (503, b'{"error": "slow down"}\n')


@pytest.mark.parametrize(("full", "passing"), [("share", 1), ("refuse", 0)])
def test_more_clients_than_places(full: str, passing: int) -> None:
    """Clients beyond ``keys`` share a bucket or are refused; the known ones are not disturbed."""
    kit, held = Kit(), made(requests=2, per="1m", burst=1, keys=3, full=full)
    many = [kit.drive(held, client=b"192.0.2.%d:1" % number).status for number in range(1, 51)]
    assert many[:3] == [200] * 3
    assert many[3:].count(200) == passing
    assert kit.counters["crowded"] == 47
    kit.advance(30.0)
    assert statuses(kit, held, 1, client=b"192.0.2.1:1") == [200]


def test_what_the_admin_shows_holds_no_keys() -> None:
    """The admin page has numbers; a client's key may be a secret."""
    kit, held = Kit(), made(requests=1, by={"header": "x-key"})
    statuses(kit, held, 2, headers={b"x-key": b"s3cret"})
    shown = kit.shown["ratelimit"]()
    assert shown["limits"][0] == {
        "name": "default",
        "requests": 1,
        "per": 1.0,
        "burst": 1,
        "refused": 1,
        "keys": 1,
    }
    assert "s3cret" not in json.dumps(shown)


@implementer(IRateStore)
class _Store:
    """A shared store: a table elsewhere, that answers as ``wrap`` makes it."""

    def __init__(self, wrap: Callable[[Taken], Any]) -> None:
        self._table = GcraTable()
        self._wrap = wrap
        self.asked: list[tuple[bytes, float, float]] = []

    def take(self, key: bytes, cost: float, rate: Rate, now: float) -> Any:
        self.asked.append((key, cost, now))
        return self._wrap(self._table.take(key, cost, rate, now))


def test_a_store_that_answers_at_once() -> None:
    """A shared store is asked by a key with its place in front, with the time since 1970."""
    store = _Store(lambda taken: taken)
    kit = Kit(wall=5000.0)
    held = made(store, requests=1)
    assert statuses(kit, held, 2) == [200, 429]
    assert store.asked[0] == (b"test/ratelimit/default:192.0.2.1", 1, 5000.0)


def test_a_store_that_answers_later() -> None:
    """A request waits for its store, limit by limit, and goes on or is refused."""
    asked: list[tuple[Taken, Deferred[Taken]]] = []

    def later(taken: Taken) -> Deferred[Taken]:
        asked.append((taken, Deferred()))
        return asked[-1][1]

    def say() -> None:
        taken, waiting = asked.pop(0)
        waiting.callback(taken)

    kit = Kit()
    limits = [
        {"requests": 2, "by": {"header": "x"}, "missing": "skip"},
        {"requests": 2, "per": "1m"},
        {"requests": 1, "by": {"header": "x"}, "missing": "skip"},
        {"requests": 1, "per": "1m", "name": "last"},
    ]
    held = made(_Store(later), limits=limits, on_allowed=True)
    first = kit.drive(held)
    assert (first.status, first.waiting, first.upstream) == (0, True, None)
    say()
    assert first.waiting
    say()
    assert first.status == 200
    assert first.headers.get(b"ratelimit") == b'"limit-2";r=1;t=30, "last";r=0;t=60'
    second = kit.drive(held)
    say()
    say()
    assert second.status == 429
    # What the second limit gave is given back, and nobody waits for that.
    (given_back, _), *rest = asked
    assert given_back == pytest.approx((True, 1.0, 30.0, 0.0))
    assert rest == []


def test_a_client_that_goes_while_the_store_is_asked() -> None:
    """What is waited for is cancelled, and nothing is sent on."""
    cancelled: list[Any] = []
    held = made(_Store(lambda taken: Deferred(cancelled.append)), requests=1)
    driven = drive(held)
    driven.disconnect()
    assert len(cancelled) == 1
    assert driven.over
    assert driven.upstream is None


def test_a_refund_that_fails_harms_nobody() -> None:
    """A store that cannot take back keeps it; the request is answered as it was."""
    answers: list[Any] = [(True, 1.0, 1.0, 0.0), (False, 0.0, 1.0, 1.0), Deferred()]
    held = made(_Store(lambda _: answers.pop(0)), limits=[{"requests": 2}, {"requests": 1}])
    waiting = answers[2]
    driven: Driven = drive(held)
    assert driven.status == 429
    waiting.errback(OSError("gone"))


def test_a_rate_that_no_clock_can_keep() -> None:
    """More than a million a second is refused with the reason."""
    made(requests=1000, per="1ms")
    with pytest.raises(ValueError, match="at most 1000000 a second"):
        made(requests=2000, per="1ms")
