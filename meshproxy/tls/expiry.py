"""
When certificates end.

The laws it keeps:

- What ends within :data:`AHEAD` days, or is not valid now, is told at load and then once a day.
- A certificate's end is a metric, whose series are bounded by the configuration: a renewed one
  takes the old one's place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from os.path import basename
from typing import Any, Final, Literal

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from twisted.python import log

from meshproxy.observe.registry import Registry
from meshproxy.tls.material import Pair, shown_name

__all__ = ["AHEAD", "Expiry", "describe"]

AHEAD: Final = 30
"""Days before its end from which on a certificate is told of."""

DAY: Final = 86400.0


class Expiry:
    """Tells of the certificates of one process. :meth:`look` may be called at any time."""

    def __init__(self, registry: Registry, wall: Callable[[], float]) -> None:
        self._registry = registry
        self._wall = wall
        self._owners: dict[tuple[str, str], Callable[[], Sequence[Pair]]] = {}
        # When each certificate was told of; by owner and index, so bounded.
        self._told: dict[tuple[str, str, int], tuple[bytes, float]] = {}
        self._next = 0.0

    def add(
        self,
        kind: Literal["listener", "cluster"],
        name: str,
        pairs: Callable[[], Sequence[Pair]],
    ) -> None:
        """
        Tell of what ``pairs()`` holds at any time, which belongs to that listener or cluster.

        Its number of certificates stays the same. Added again, it takes the old one's place.
        """
        self._owners[kind, name] = pairs
        for index, pair in enumerate(pairs()):
            labels = {"listener": "", "cluster": "", "file": basename(pair.files[0])}
            labels |= {kind: name, "index": str(index)}
            self._registry.sample(
                "meshproxy_tls_certificate_not_after_seconds",
                "When a certificate ends, in seconds since 1970",
                labels,
                partial(_end, pairs, index),
            )
        self._next = 0.0

    def remove(self, kind: Literal["listener", "cluster"], name: str) -> None:
        """Tell no more of a listener or cluster."""
        self._owners.pop((kind, name), None)
        for key in [key for key in self._told if key[:2] == (kind, name)]:
            del self._told[key]

    def changed(self) -> None:
        """The certificates are other ones: the next look is a whole one."""
        self._next = 0.0

    def look(self) -> None:
        """Tell of what is due."""
        now = self._wall()
        # A clock that was set back is no reason for silence.
        if self._next - DAY / 24 <= now < self._next:
            return
        self._next = now + DAY / 24
        for (kind, name), pairs in self._owners.items():
            for index, pair in enumerate(pairs()):
                words = warning(pair, now)
                key = kind, name, index
                if not words:
                    self._told.pop(key, None)
                    continue
                digest, at = self._told.get(key, (b"", 0.0))
                if digest == pair.digest and 0 <= now - at < DAY:
                    continue
                self._told[key] = pair.digest, now
                log.msg(f"tls {kind}={name} certificate={pair.files[0]} {words}")


def warning(pair: Pair, now: float) -> str:
    """What is to be told of a certificate now; empty if nothing."""
    start = pair.leaf.not_valid_before_utc
    end = pair.leaf.not_valid_after_utc
    left = end.timestamp() - now
    if left <= 0:
        return f"expired at {_iso(end)}"
    if start.timestamp() > now:
        return f"is not valid before {_iso(start)}"
    if left < AHEAD * DAY:
        return f"expires at {_iso(end)}, days_left={left / DAY:.1f}"
    return ""


def describe(pair: Pair, now: float) -> dict[str, Any]:
    """A certificate to show, of what JSON can hold and without a secret."""
    leaf = pair.leaf
    end = leaf.not_valid_after_utc
    return {
        "names": list(pair.names),
        "subject": shown_name(leaf.subject),
        "issuer": shown_name(leaf.issuer),
        "serial": f"{leaf.serial_number:x}",
        "not_before": _iso(leaf.not_valid_before_utc),
        "not_after": _iso(end),
        "days_left": round((end.timestamp() - now) / DAY, 1),
        "key": _key(pair),
        "sha256": leaf.fingerprint(hashes.SHA256()).hex(":"),
        "chain": [shown_name(one.subject) for one in pair.chain[1:]],
        "files": list(pair.files),
    }


def _key(pair: Pair) -> str:
    key = pair.key
    if isinstance(key, rsa.RSAPrivateKey):
        return f"RSA {key.key_size}"
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return f"ECDSA {key.curve.name}"
    return "Ed25519"


def _end(pairs: Callable[[], Sequence[Pair]], index: int) -> float:
    found = pairs()
    return found[index].leaf.not_valid_after_utc.timestamp() if index < len(found) else 0.0


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
