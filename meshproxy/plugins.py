"""
Find plugins by interface and name.

Laws:

- A plugin is found through Twisted's plugin system: an object that provides ``IPlugin`` and the
  interface asked for, in a module of ``twisted/plugins/`` anywhere on ``sys.path``.
- What is found has been verified: it has every attribute and method of the interface, and its
  name belongs to it alone. What fails is refused, with the reason, and harms nobody else; whoever
  asks for it by name is told the reason.
- A module that does not import is named, with the last line of its traceback.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from twisted.plugin import getCache
from twisted.python.modules import getModule
from zope.interface import Interface
from zope.interface.exceptions import Invalid
from zope.interface.verify import verifyObject

import twisted.plugins
from meshproxy.errors import PluginError
from meshproxy.interfaces import (
    IBytesFilter,
    IConnectionFilter,
    IConnectionObserver,
    IConnectionServer,
    IDatagramFilter,
    IExchangeObserver,
    IListenerFilter,
    IQueryFilter,
    IRequestBodyFilter,
    IRequestFilter,
    IRequestTrailersFilter,
    IResponseBodyFilter,
    IResponseFilter,
    IResponseTrailersFilter,
)

__all__ = ["KINDS", "Plugins", "find", "kinds_of"]

#: The interfaces by which a filter is of a kind; what else it provides goes with any.
KINDS: dict[str, tuple[type[Interface], ...]] = {
    "http": (
        IRequestFilter,
        IRequestBodyFilter,
        IRequestTrailersFilter,
        IResponseFilter,
        IResponseBodyFilter,
        IResponseTrailersFilter,
        IExchangeObserver,
    ),
    "tcp": (IConnectionFilter, IBytesFilter, IConnectionServer, IConnectionObserver),
    "listener": (IListenerFilter,),
    "udp": (IDatagramFilter,),
    "dns": (IQueryFilter,),
}


def kinds_of(provided: Any) -> tuple[str, ...]:
    """The kinds of a filter whose (declared or provided) interfaces are ``provided``."""
    return tuple(
        kind
        for kind, interfaces in KINDS.items()
        if any(provided.isOrExtends(interface) for interface in interfaces)
    )


@dataclass(frozen=True, slots=True)
class Plugins:
    """
    What a search found.

    ``by_name`` holds the plugins that can be used, ``refused`` why others cannot, by name, and
    ``broken`` one line for each module that did not import.
    """

    by_name: Mapping[str, Any]
    refused: Mapping[str, str]
    broken: tuple[str, ...]

    def get(self, name: str) -> Any:
        """Return the plugin called ``name``. Raises :class:`PluginError`, which says why not."""
        if name in self.by_name:
            return self.by_name[name]
        if name in self.refused:
            raise PluginError(self.refused[name])
        message = f"there is no filter called '{name}'"
        near = get_close_matches(name, self.by_name, n=1)
        if near:
            message += f"; did you mean '{near[0]}'?"
        raise PluginError("\n".join((message, *self.broken)))


def find(interface: type[Interface], package: ModuleType = twisted.plugins) -> Plugins:
    """
    Search the plugins of ``package`` for those that provide ``interface``.

    The interface has an attribute ``name``. Only modules that offer such a plugin, or that
    changed since Twisted's cache of them was written, are imported.
    """
    # twisted.plugin.getPlugins is a loop over the same cache that logs what does not import and
    # forgets it; here it has to be named.
    cache = getCache(package)
    broken = []
    for module in getModule(package.__name__).iterModules():
        if module.name.rpartition(".")[2] not in cache:
            reason = _import_failure(module.name)
            if reason is not None:
                broken.append(_broken(module.name, reason))
    found: dict[str, list[tuple[str, Any]]] = {}
    refused: dict[str, str] = {}
    for dropin in cache.values():
        for plugin in dropin.plugins:
            if not any(provided.isOrExtends(interface) for provided in plugin.provided):
                continue
            where = f"{dropin.moduleName}.{plugin.name}"
            try:
                loaded = plugin.load()
            except Exception as error:
                broken.append(_broken(where, _last_line(error)))
                continue
            name = getattr(loaded, "name", None)
            if not isinstance(name, str) or not name:
                refused[where] = f"{where} has no name, so it is not used"
                continue
            try:
                verifyObject(interface, loaded)
            except Invalid as error:
                refused[name] = f"the filter '{name}' of {where} is refused: {_one_line(error)}"
                continue
            found.setdefault(name, []).append((where, loaded))
    for name, plugins in found.items():
        if len(plugins) > 1:
            places = " and ".join(sorted(where for where, _ in plugins))
            refused[name] = f"the filter '{name}' is there more than once, in {places}: remove one"
    usable = {name: plugins[0][1] for name, plugins in found.items() if name not in refused}
    return Plugins(dict(sorted(usable.items())), refused, tuple(broken))


def _import_failure(name: str) -> str | None:
    """Import the module once more; the last line of the traceback, None if it imports now."""
    try:
        importlib.import_module(name)
    except Exception as error:
        return _last_line(error)
    return None


def _broken(where: str, reason: str) -> str:
    return f"{where} does not import: {reason}"


def _last_line(error: BaseException) -> str:
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
