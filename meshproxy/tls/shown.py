"""
The certificates of a listener, each as it is in force.

The laws it keeps:

- Read anew, a certificate is taken over whole or not at all: a chain whose key has not come yet
  waits for it.
- An OCSP response never keeps a certificate back: one that cannot be used is not stapled, and in
  place of one that cannot be read the old one stays, if it is about the same certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from OpenSSL import SSL

from meshproxy.tls.material import Pair, Seen, TlsFileError, load_pair, use_pair
from meshproxy.tls.ocsp import ANOTHER, Staple, judge

if TYPE_CHECKING:
    from meshproxy.config.tls import Certificate

__all__ = ["Shown", "bearers"]


class Shown:
    """
    One entry of ``certificates``. Raises :class:`~meshproxy.tls.material.TlsFileError`.

    ``looks`` tells how its files looked when they were read.
    """

    __slots__ = ("_base", "_config", "_state", "looks", "pair", "staple")

    def __init__(
        self, config: Certificate, base: str, now: float, tell: Callable[[str], None]
    ) -> None:
        self._config = config
        self._base = base
        self.pair: Pair = load_pair(config, base)
        self.looks: dict[str, Seen] = dict(self.pair.looks)
        use_pair(SSL.Context(SSL.TLS_SERVER_METHOD), self.pair)
        self.staple: Staple | None = None
        self._state = "good"
        if self.pair.ocsp is not None:
            self.staple = judge(self.pair.files[-1], self.pair.ocsp, self.pair.leaf)
        self.look(now, tell)

    @property
    def stapled(self) -> bool:
        """Whether there is a file for OCSP responses."""
        return self._config.ocsp is not None

    def reload(self, now: float, tell: Callable[[str], None]) -> bool:
        """
        Read the files anew; whether what they hold is other than before.

        Raises :class:`~meshproxy.tls.material.TlsFileError`, and changes nothing then.
        """
        old, kept = self.pair, self.staple
        staple: Staple | None = None
        try:
            pair = load_pair(self._config, self._base)
            if pair.ocsp is not None:
                staple = judge(pair.files[-1], pair.ocsp, pair.leaf)
        except TlsFileError as error:
            if error.key != "ocsp":
                raise
            tell(f"ocsp: {error}")
            pair = load_pair(self._config, self._base, ocsp=False)
        same = pair.digest == old.digest
        if not same:
            # Before it is taken over: what OpenSSL refuses is no better than broken.
            use_pair(SSL.Context(SSL.TLS_SERVER_METHOD), pair)
        elif staple is None or staple.fault == ANOTHER:
            staple = kept
        self.looks.update(pair.looks)
        self.pair = old if same else pair
        self.staple = staple
        self.look(now, tell)
        return not same or (staple is not kept and _der(staple) != _der(kept))

    def look(self, now: float, tell: Callable[[str], None]) -> None:
        """Tell when the response begins or ceases to be one that can be stapled."""
        state = "good" if self.staple is None else self.staple.state(now)
        if state != self._state:
            self._state = state
            what = "is stapled again" if state == "good" else f"is not stapled: it is {state}"
            tell(f"ocsp: the response for {self.pair.files[0]} {what}")


def bearers(pairs: Sequence[Pair]) -> dict[str, tuple[int, ...]]:
    """
    Which of ``pairs`` each name is shown by, at most one of each kind of key; "" is the default.

    Those that bear the name itself come before those that bear a wildcard for it.
    """
    by_name: dict[str, dict[str, int]] = {}
    for index, pair in enumerate(pairs):
        for name in pair.names:
            by_name.setdefault(name, {}).setdefault(pair.kind, index)
    found: dict[str, tuple[int, ...]] = {}
    for name, own in by_name.items():
        wide = by_name.get("*." + name.partition(".")[2], {})
        found[name] = tuple(sorted({**wide, **own}.values()))
    first = pairs[0]
    beside = {first.kind: 0}
    for index, pair in enumerate(pairs):
        if set(pair.names) == set(first.names):
            beside.setdefault(pair.kind, index)
    found[""] = tuple(sorted(beside.values()))
    return found


def _der(staple: Staple | None) -> bytes:
    return b"" if staple is None else staple.der
