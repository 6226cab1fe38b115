from typing import Any

from zope.interface import implementer

from meshproxy.api import FilterPlugin
from meshproxy.interfaces import IBalancer, IBalancing


@implementer(IBalancer)
class First:
    """The first of the endpoints that are well."""

    def __init__(self, endpoints: Any) -> None:
        self._first = endpoints[0]

    def pick(self) -> Any:
        return self._first


@implementer(IBalancing)
class InOrder:
    """The first endpoint gets everything while it is well, then the second, and so on."""

    def balance(self, endpoints: Any) -> First:
        return First(endpoints)


in_order = FilterPlugin("in_order", "Prefer endpoints in their order.", InOrder)
