"""
A token bucket.

The law it keeps: over any time, at most burst + rate × time are taken; a clock that stands still
or goes back gives nothing.
"""

from __future__ import annotations


class TokenBucket:
    """``rate`` tokens a second, at most ``burst`` saved up; it begins full. GCRA: one number."""

    __slots__ = ("_cost", "_due", "_room")

    def __init__(self, rate: float, burst: int) -> None:
        self._cost = 1.0 / rate
        self._room = (burst - 1) * self._cost
        self._due = float("-inf")

    def ready(self, now: float) -> bool:
        """Whether a token is there at ``now`` (seconds)."""
        return self._due - now <= self._room

    def left(self, now: float) -> int:
        """How many tokens are there at ``now``."""
        saved = self._room + self._cost - max(self._due - now, 0.0)
        return max(0, int(saved / self._cost + 1e-9))

    def take(self, now: float) -> bool:
        """Take a token; False when there is none."""
        due = self._due
        if due < now:
            due = now
        elif due - now > self._room:
            return False
        self._due = due + self._cost
        return True
