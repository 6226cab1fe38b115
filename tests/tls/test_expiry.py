"""When certificates end: the metric, the warnings, the admin's page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.python import log

from meshproxy.observe.registry import Registry
from meshproxy.tls.expiry import Expiry, describe
from meshproxy.tls.material import Pair, load_pair
from tests.tls.authority import Authority, Kind
from tests.tls.exchange import certificate

NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who issues."""
    return Authority()


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What is logged."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(" ".join(map(str, event.get("message") or ())))

    log.addObserver(observe)
    yield lines
    log.removeObserver(observe)


class Wall:
    """The time, as told."""

    def __init__(self) -> None:
        self.now = NOW.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def pair(tmp_path: Path, authority: Authority) -> Any:
    """Makes a certificate with an end."""

    def made(days: float, stem: str = "a", kind: Kind = "ec", start: float = -90) -> Pair:
        one = authority.issue(
            "a.example",
            kind=kind,
            not_before=NOW + timedelta(days=start),
            not_after=NOW + timedelta(days=days),
        )
        one.write(tmp_path, stem)
        return load_pair(certificate(chain=f"{stem}.pem", key=f"{stem}.key"), str(tmp_path))

    return made


def test_the_metric(pair: Any) -> None:
    """It has a series for each certificate, which a new one takes over."""
    registry = Registry()
    expiry = Expiry(registry, Wall())
    pairs = [pair(40), pair(50, "b")]
    expiry.add("listener", "web", lambda: pairs)
    other = [pair(60)]
    expiry.add("cluster", "api", lambda: other)

    def series() -> dict[tuple[str, ...], float]:
        registry.refresh()
        (family,) = registry.families
        assert family.name == "meshproxy_tls_certificate_not_after_seconds"
        assert family.label_names == ("listener", "cluster", "file", "index")
        return {key: registry.values[slot] for key, slot in family.series.items()}

    def end(days: float) -> float:
        return (NOW + timedelta(days=days)).timestamp()

    assert series() == {
        ("web", "", "a.pem", "0"): end(40),
        ("web", "", "b.pem", "1"): end(50),
        ("", "api", "a.pem", "0"): end(60),
    }
    pairs[0] = pair(99)
    assert series()["web", "", "a.pem", "0"] == end(99)
    assert len(series()) == 3


def test_warnings(pair: Any, logged: list[str]) -> None:
    """What ends within 30 days is told at load and once a day, and no more once it is renewed."""
    wall = Wall()
    expiry = Expiry(Registry(), wall)
    pairs = [pair(30.5, "far"), pair(10, "near")]
    expiry.add("listener", "web", lambda: pairs)
    expiry.look()
    expiry.look()
    assert len(logged) == 1
    assert "tls listener=web certificate=" in logged[0]
    assert "/near.pem expires at 2030-06-11T12:00:00Z, days_left=10.0" in logged[0]
    wall.now += 86000
    expiry.look()
    # By now the other one is within 30 days as well.
    assert len(logged) == 2
    assert "/far.pem expires at" in logged[1]
    wall.now += 3700
    expiry.look()
    assert len(logged) == 3
    pairs[1] = pair(200, "near")
    wall.now += 86400
    expiry.look()
    assert [line.split("/")[-1].split()[0] for line in logged] == [
        "near.pem",
        "far.pem",
        "near.pem",
        "far.pem",
    ]
    # A new one that is no better is told at once.
    pairs[1] = pair(9, "near")
    expiry.changed()
    expiry.look()
    assert "/near.pem" in logged[-1]
    expiry.remove("listener", "web")
    wall.now += 1e6
    expiry.look()
    assert len(logged) == 5


def test_what_is_not_valid_now(pair: Any, logged: list[str]) -> None:
    """One that has ended, and one that has not begun."""
    expiry = Expiry(Registry(), Wall())
    pairs = [pair(-1, "old"), pair(90, "new", start=1)]
    expiry.add("cluster", "api", lambda: pairs)
    expiry.look()
    assert logged[0].endswith("/old.pem expired at 2030-05-31T12:00:00Z")
    assert logged[1].endswith("/new.pem is not valid before 2030-06-02T12:00:00Z")
    assert logged[0].startswith("tls cluster=api certificate=")


def test_a_clock_set_back(pair: Any, logged: list[str]) -> None:
    """Nobody waits for a time that was never."""
    wall = Wall()
    expiry = Expiry(Registry(), wall)
    wall.now += 300 * 86400
    expiry.look()
    pairs = [pair(10)]
    expiry.add("listener", "web", lambda: pairs)
    expiry.look()
    wall.now -= 300 * 86400
    expiry.look()
    assert len(logged) == 2


@pytest.mark.parametrize(
    ("kind", "key"), [("ec", "ECDSA secp256r1"), ("rsa", "RSA 2048"), ("ed25519", "Ed25519")]
)
def test_describe(pair: Any, kind: Kind, key: str) -> None:
    """All that the admin shows, which JSON can hold; no key."""
    one: Pair = pair(12.5, kind=kind)
    told = describe(one, NOW.timestamp())
    json.dumps(told)
    assert told["key"] == key
    assert (told["names"], told["days_left"]) == (["a.example"], 12.5)
    assert told["not_after"] == "2030-06-14T00:00:00Z"
    assert (told["subject"], told["issuer"]) == ("CN=a.example", "CN=test CA")
    assert int(told["serial"], 16) == one.leaf.serial_number
    assert len(told["sha256"]) == 32 * 3 - 1
    assert told["files"] == list(one.files)
    assert isinstance(one.leaf, x509.Certificate)
