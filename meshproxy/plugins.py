"""
Find plugins by interface, name and kind.

Laws:

- A plugin is found through Twisted's plugin system: an object that provides ``IPlugin`` and the
  interface asked for, in a module of ``twisted/plugins/`` anywhere on ``sys.path``, or in a folder
  that :func:`add_directory` added.
- Looking imports no filter: a plugin says by itself where it can be used only when somebody asks
  for it by name, or for all of them. What fails then is told to whoever asked, with the last line
  of the traceback, and harms nobody else.
- What is given out has been verified: it has every attribute and method of the interface, and its
  name belongs to it alone among those of its kind.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import twisted.plugin
from twisted.plugin import CachedDropin, CachedPlugin, IPlugin, getCache
from twisted.python.modules import getModule
from zope.interface import Interface, implementedBy, providedBy
from zope.interface.exceptions import BrokenImplementation, Invalid
from zope.interface.verify import verifyObject

import twisted.plugins
from meshproxy.errors import PluginError
from meshproxy.interfaces import (
    IAccessLog,
    IBalancing,
    IBytesFilter,
    IConnectionFilter,
    IConnectionObserver,
    IConnectionServer,
    IContextFilter,
    IDatagramFilter,
    IDiscovery,
    IExchangeObserver,
    IFilterService,
    IHealthCheck,
    IListenerFilter,
    IQueryFilter,
    IRequestBodyFilter,
    IRequestFilter,
    IRequestTrailersFilter,
    IResponseBodyFilter,
    IResponseFilter,
    IResponseTrailersFilter,
)

__all__ = [
    "CHOICES",
    "KINDS",
    "Found",
    "Plugins",
    "add_directory",
    "find",
    "kinds_of",
    "noun",
    "serves",
    "verify_filter",
]

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
    "balancer": (IBalancing,),
    "discovery": (IDiscovery,),
    "health_check": (IHealthCheck,),
    "access_log": (IAccessLog,),
}

#: The kinds that are no filters, but one choice each, and what such a thing is called.
CHOICES = {
    "balancer": "balancer",
    "discovery": "discovery",
    "health_check": "health check",
    "access_log": "access log",
}

#: What a kind is called where a filter stands in the wrong place.
PLACES = {"listener": "listener_filters", "udp": "UDP", "dns": "DNS"}


def noun(kind: str | None) -> str:
    """What a plugin of this kind is called: ``filter``, ``balancer``."""
    return CHOICES.get(kind or "", "filter")


def kinds_of(provided: Any) -> tuple[str, ...]:
    """The kinds of a filter whose (declared or provided) interfaces are ``provided``."""
    return tuple(
        kind
        for kind, interfaces in KINDS.items()
        if any(provided.isOrExtends(interface) for interface in interfaces)
    )


def serves(factory: Any) -> bool:
    """Whether its filters serve connections themselves, so that there is no upstream."""
    told = getattr(factory, "serves", None)
    if told is not None:
        return bool(told)
    made = getattr(factory, "filter", None)
    return isinstance(made, type) and implementedBy(made).isOrExtends(IConnectionServer)


def verify_filter(made: Any, kind: str) -> None:
    """
    See that a filter is of this kind, and that it provides what it says.

    Raises :class:`PluginError` with what it lacks.
    """
    if kind not in kinds_of(providedBy(made)):
        names = ", ".join(map(_called, KINDS[kind]))
        raise PluginError(f"it provides none of {names}")
    if kind == "discovery" and IFilterService.providedBy(made):
        raise PluginError("it cannot provide IFilterService: IDiscovery has a start of its own")
    for interface in (*_ALL, IContextFilter, IFilterService):
        if not providedBy(made).isOrExtends(interface):
            continue
        try:
            verifyObject(interface, made)
        except Invalid as error:
            for fault in getattr(error, "exceptions", (error,)):
                if isinstance(fault, BrokenImplementation) and _name_of(fault) in _OPTIONAL:
                    continue
                reason = one_line(fault).partition(": ")[2] or one_line(fault)
                raise PluginError(f"it provides {_called(interface)} badly: {reason}") from None


@dataclass(frozen=True, slots=True)
class Found:
    """A plugin, and where it is: ``twisted.plugins.meshproxy_filters.cors``."""

    where: str
    plugin: Any
    interface: type[Interface]

    def verified(self) -> Any:
        """
        The plugin, with everything that it promises.

        Raises :class:`PluginError`: its target does not import, or something is missing.
        """
        name = self.plugin.name
        refused = f"the filter '{name}' of {self.where} is refused:"
        try:
            verifyObject(self.interface, self.plugin)
            wrong = _wrong(self.plugin.kinds, self.plugin.options)
        except Invalid as error:
            raise PluginError(f"{refused} {one_line(error)}") from None
        except Exception as error:
            message = f"the filter '{name}' of {self.where} cannot be used: {last_line(error)}"
            raise PluginError(message) from error
        if wrong is not None:
            raise PluginError(f"{refused} {wrong}")
        return self.plugin


@dataclass(frozen=True, slots=True)
class Plugins:
    """
    What a search found.

    ``by_name`` holds the plugins, those of one name in the order of their places; ``refused`` why
    others cannot be used, by name; and ``broken`` one line for each module that did not import.
    """

    by_name: Mapping[str, tuple[Found, ...]]
    refused: Mapping[str, str]
    broken: tuple[str, ...]

    def get(self, name: str, kind: str | None = None) -> Any:
        """
        Return the plugin called ``name`` for filters of this kind (None: the only one there is).

        Raises :class:`PluginError`, which says why there is none.
        """
        if name not in self.by_name:
            if name in self.refused:
                raise PluginError(self.refused[name])
            message = f"there is no {noun(kind)} called '{name}'"
            near = self.near(name, kind)
            if near is not None:
                message += f"; did you mean '{near}'?"
            raise PluginError("\n".join((message, *self.broken)))
        usable: list[tuple[Found, Any]] = []
        failures: list[PluginError] = []
        others: list[str] = []
        for found in self.by_name[name]:
            try:
                plugin = found.verified()
            except PluginError as error:
                failures.append(error)
                continue
            if kind is None or kind in plugin.kinds:
                usable.append((found, plugin))
            others += plugin.kinds
        if len(usable) > 1:
            places = " and ".join(sorted(found.where for found, _ in usable))
            raise PluginError(
                f"the {noun(kind)} '{name}' is there more than once, in {places}: remove one"
            )
        if usable:
            return usable[0][1]
        if failures:
            raise failures[0]
        raise PluginError(_elsewhere(name, others, str(kind)))

    def near(self, name: str, kind: str | None = None) -> str | None:
        """The filter (of this kind) that was probably meant by ``name``; None for none."""
        if len(name) > 64:
            return None
        for near in get_close_matches(name.lower().replace("-", "_"), self.by_name, n=5):
            if kind is None:
                return near
            try:
                self.get(near, kind)
            except PluginError:
                continue
            return near
        return None

    def of(self, kind: str) -> dict[str, Any]:
        """Every plugin that can be used for filters of this kind, by name. Imports them all."""
        usable = {}
        for name in self.by_name:
            try:
                usable[name] = self.get(name, kind)
            except PluginError:
                continue
        return usable


_ALL = tuple(dict.fromkeys(interface for held in KINDS.values() for interface in held))


#: Attributes that an interface says may be left out.
_OPTIONAL = frozenset({"keeps_length"})


def _wrong(kinds: Any, options: Any) -> str | None:
    """What is wrong with what a plugin says of itself."""
    if isinstance(kinds, str) or not all(kind in KINDS for kind in kinds):
        return f"its kinds are {kinds!r}, and not some of {', '.join(KINDS)}"
    if not kinds:
        return "it is of no kind, as it provides none of the interfaces of filters or choices"
    if options is not None and not hasattr(options, "model_validate"):
        return f"its options are {options!r}, and neither a pydantic model nor None"
    return None


def _called(interface: Any) -> str:
    return str(interface.getName())


def _name_of(fault: BrokenImplementation) -> str:
    return str(getattr(fault.name, "__name__", fault.name))


def _elsewhere(name: str, kinds: list[str], kind: str) -> str:
    known = [held for held in KINDS if held in kinds]
    filters = [held for held in known if held not in CHOICES]
    spoken = [held for held in filters if held not in ("udp", "dns")]
    if filters and filters == known and not spoken:
        protocols = " or ".join(PLACES[held] for held in known)
        return f"'{name}' is a filter for {protocols}, and no listener speaks {protocols} yet"
    what = [_article(CHOICES[held]) for held in known if held in CHOICES]
    if spoken or not what:
        places = " and ".join(PLACES.get(held, held) for held in spoken) or "nothing"
        what.insert(0, f"a filter for {places}")
    if kind in CHOICES:
        return f"'{name}' is {' and '.join(what)}, not {_article(CHOICES[kind])}"
    place = f"for {PLACES.get(kind, kind)}"
    return f"'{name}' is {' and '.join(what)}, not {place if spoken else f'a filter {place}'}"


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def add_directory(path: str) -> None:
    """
    Search this directory too: its ``twisted/plugins`` if it has that, else its own modules.

    Modules beside (of a folder of plugins: in it) can be imported by their names.
    """
    path = os.path.abspath(path)
    inside = os.path.join(path, "twisted", "plugins")
    plugins = inside if os.path.isdir(inside) else path
    if path not in sys.path:
        sys.path.append(path)
    if plugins not in twisted.plugins.__path__:
        twisted.plugins.__path__.append(plugins)
    importlib.invalidate_caches()


_TWISTED = os.path.join(os.path.dirname(twisted.__file__), "")


class _Unsaid:
    """In the place of Twisted's log: what does not import is told in a line, not as a traceback."""

    @staticmethod
    def err(*_: Any, **__: Any) -> None:
        """Not here."""

    msg = err


def _cached(package: ModuleType) -> dict[str, CachedDropin]:
    """Twisted's cache of the plugins of ``package``, without what it would log of broken ones."""
    module: Any = twisted.plugin
    log = module.log
    module.log = _Unsaid
    try:
        return dict(getCache(package))
    except Exception:
        # A module whose names cannot all be adapted to IPlugin: a zope metaclass, for one.
        return {}
    finally:
        module.log = log


def find(
    interface: type[Interface], package: ModuleType = twisted.plugins, *, fresh: bool = False
) -> Plugins:
    """
    Search the plugins of ``package`` for those that provide ``interface``.

    The interface has an attribute ``name``. Only modules that offer such a plugin, or that
    changed since Twisted's cache of them was written, are imported; with ``fresh`` all but
    Twisted's own are, since the cache does not notice what changed in a module that they import.
    """
    # twisted.plugin.getPlugins is a loop over the same cache that logs what does not import and
    # forgets it; here it has to be named.
    cache = _cached(package)
    broken = []
    for module in getModule(package.__name__).iterModules():
        key = module.name.rpartition(".")[2]
        # Twisted's own have no such plugins, and need what not every system has.
        if key in cache and (not fresh or module.filePath.path.startswith(_TWISTED)):
            continue
        try:
            loaded = importlib.import_module(module.name)
        except Exception as error:
            broken.append(f"{module.name} does not import: {last_line(error)}")
            cache.pop(key, None)
        else:
            cache[key] = _looked_at(loaded)
    found: dict[str, list[Found]] = {}
    refused: dict[str, str] = {}
    for dropin in cache.values():
        for plugin in dropin.plugins:
            if not any(provided.isOrExtends(interface) for provided in plugin.provided):
                continue
            where = f"{dropin.moduleName}.{plugin.name}"
            try:
                offered = plugin.load()
            except Exception as error:
                broken.append(f"{where} does not import: {last_line(error)}")
                continue
            name = getattr(offered, "name", None)
            if not isinstance(name, str) or not name:
                refused[where] = f"{where} has no name, so it is not used"
                continue
            missing = _missing(interface, offered)
            if missing is not None:
                refused[name] = f"the filter '{name}' of {where} is refused: it has no '{missing}'"
                continue
            found.setdefault(name, []).append(Found(where, offered, interface))
    by_name = {
        name: tuple(sorted(held, key=lambda one: one.where)) for name, held in sorted(found.items())
    }
    return Plugins(by_name, refused, tuple(broken))


def _looked_at(module: ModuleType) -> CachedDropin:
    """What Twisted's cache would say of a module, now."""
    dropin = CachedDropin(module.__name__, module.__doc__)
    for name, value in vars(module).items():
        try:
            provided = list(providedBy(value))
        except Exception:
            continue  # not everything that a module imports can be asked
        if any(one.isOrExtends(IPlugin) for one in provided):
            CachedPlugin(dropin, name, None, provided)
    return dropin


def _missing(interface: type[Interface], offered: Any) -> str | None:
    """What a plugin lacks, as far as can be told without asking it anything that it works out."""
    for name in interface.names(all=True):
        try:
            inspect.getattr_static(offered, name)
        except AttributeError:
            if not hasattr(offered, name):
                return str(name)
    return None


def last_line(error: BaseException) -> str:
    """The last line of the traceback: ``ModuleNotFoundError: No module named 'x'``."""
    return "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]


def one_line(error: BaseException) -> str:
    """The text of an error, on one line."""
    return " ".join(str(error).split())
