"""
Endpoints that a plugin finds.

The law it keeps: what a plugin tells is judged as ``endpoints`` of a cluster are, all of it or
nothing; what it raises is counted and logged, and what was known last stays in use; after ``stop``
it is not heard any more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError
from zope.interface import implementer

from meshproxy.config.cluster import Endpoint, EndpointItem
from meshproxy.config.place import render
from meshproxy.config.unfit import quoted
from meshproxy.interfaces import IDiscovery
from meshproxy.upstream.cluster import spec_of
from meshproxy.upstream.endpoint import EndpointSpec

if TYPE_CHECKING:
    from meshproxy.observe.fitted import Fitted


@cache
def _item() -> TypeAdapter[Endpoint]:
    return TypeAdapter(EndpointItem)


@implementer(IDiscovery)
class PluginDiscovery:
    """The source that a plugin (``fitted``, an IDiscovery) is."""

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self._update: Callable[[Sequence[EndpointSpec]], None] | None = None
        self._failed: Callable[[str], None] | None = None

    def start(
        self, update: Callable[[Sequence[EndpointSpec]], None], failed: Callable[[str], None]
    ) -> None:
        """Start the plugin; one that raises has failed."""
        self._update, self._failed = update, failed
        try:
            self._fitted.filter.start(self._told, self._broken)
        except Exception as error:
            self._fitted.failed()
            self._broken(f"it did not start: {error}")

    def stop(self) -> None:
        """Stop the plugin."""
        self._update = self._failed = None
        try:
            self._fitted.filter.stop()
        except Exception:
            self._fitted.failed()

    def describe(self) -> Any:
        """What the plugin says of itself, if that is JSON's."""
        try:
            said = self._fitted.filter.describe()
            json.dumps(said)
            return said
        except Exception:
            self._fitted.failed()
            return {"error": "it cannot say"}

    def _told(self, given: Any) -> None:
        """These are the endpoints now, as the plugin says."""
        if self._update is None:
            return
        try:
            specs = _specs(given)
        except (TypeError, ValueError) as error:
            self._broken(str(error))
            return
        self._update(specs)

    def _broken(self, reason: str) -> None:
        if self._failed is not None:
            self._failed(str(reason))


def _specs(given: Any) -> list[EndpointSpec]:
    """The endpoints of texts, mappings and specs. Raises ``ValueError`` or ``TypeError``."""
    if isinstance(given, str | bytes):
        raise TypeError("a list of endpoints is expected, not a text")
    specs: dict[str, EndpointSpec] = {}
    for number, one in enumerate(given):
        spec = one if isinstance(one, EndpointSpec) else _spec(number, one)
        if spec.key in specs:
            raise ValueError(f"[{number}]: the address {spec.key} is there already")
        specs[spec.key] = spec
    return list(specs.values())


def _spec(number: int, one: Any) -> EndpointSpec:
    try:
        endpoint = _item().validate_python(one)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        why = first.get("ctx", {}).get("error") or first["msg"]
        at = render((number, *first["loc"]))
        raise ValueError(f"{at}: {getattr(why, 'message', why)}") from None
    address = endpoint.address
    if address is None or not address.family:
        where = endpoint.srv or (address.text if address is not None else "")
        raise ValueError(f"[{number}]: an address is needed, and {quoted(where)} is a name")
    return spec_of(endpoint)
