"""
The table of hashes of one priority of a group, and its rebuilding.

The law it keeps: there is a table at any time; a new set of endpoints or weights is built beside
it, in slices, and takes its place when it is complete. Health changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from meshproxy.upstream.maglev import Maglev
from meshproxy.upstream.ring import Ring

if TYPE_CHECKING:
    from meshproxy.upstream.building import Yard
    from meshproxy.upstream.endpoint import Endpoint

TABLES: dict[str, Callable[[Sequence[Endpoint], bool], Ring | Maglev]] = {
    "ring_hash": Ring,
    "maglev": Maglev,
}
"""By the name that a configuration uses; the second argument is whether to build at once."""

#: The points of an endpoint in a ring that is made quickly.
QUICK = 8


class Table:
    """
    ``pick_by(number)`` is that of the present table: an attribute, replaced when ``ready`` is
    called.

    ``at_once`` builds the first one in one go; otherwise a coarse ring stands in for it.
    """

    __slots__ = ("_known", "_make", "_ready", "_yard", "pick_by")

    def __init__(
        self,
        balance: str,
        endpoints: Sequence[Endpoint],
        yard: Yard,
        ready: Callable[[], None],
        at_once: bool,
    ) -> None:
        self._make = TABLES[balance]
        self._yard = yard
        self._ready = ready
        self._known: list[tuple[Endpoint, int]] = []
        if at_once:
            self._known = _known(endpoints)
            self.pick_by = self._make(endpoints, True).pick_by
        else:
            self.pick_by = Ring(endpoints, True, QUICK).pick_by
            self.tell(endpoints)

    def tell(self, endpoints: Sequence[Endpoint]) -> None:
        """These are the endpoints now."""
        known = _known(endpoints)
        if known != self._known:
            self._known = known
            self._yard.ask(self, partial(self._make, endpoints, False), self._done)

    def forget(self) -> None:
        """Nobody wants it any more."""
        self._yard.forget(self)
        self._ready = _nothing

    def describe(self) -> str:
        """What the admin shows: whether a new one is being built."""
        return "rebuilding" if self._yard.holds(self) else "ready"

    def _done(self, table: Ring | Maglev) -> None:
        self.pick_by = table.pick_by
        self._ready()


def _known(endpoints: Sequence[Endpoint]) -> list[tuple[Endpoint, int]]:
    return [(endpoint, endpoint.weight) for endpoint in endpoints]


def _nothing() -> None:
    pass
