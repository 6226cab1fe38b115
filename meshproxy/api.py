"""
What a filter is written with.

The law it keeps: everything that a filter's author needs besides the interfaces is here, under a
name that stays; the built-in filters import this, :mod:`meshproxy.interfaces` and
:mod:`meshproxy.errors`, and nothing else of meshproxy. Importing it imports no reactor.
"""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import BaseModel, Field
from twisted.plugin import IPlugin
from zope.interface import implementedBy, implementer

from meshproxy.config.action import FRAMING
from meshproxy.config.compare import compile_test as string_test
from meshproxy.config.fields import (
    Duration,
    HeaderName,
    HeaderText,
    Method,
    PathText,
    PositiveDuration,
    PositiveSize,
    Regex,
    Size,
)
from meshproxy.config.match import StringMatch, ValueMatch
from meshproxy.config.section import Section as Options
from meshproxy.config.unfit import Unfit
from meshproxy.errors import AlreadyAnswered, BodyTooLarge
from meshproxy.http.headers import Headers
from meshproxy.http.message import Response
from meshproxy.interfaces import IFilterFactory
from meshproxy.net.refuse import Refuse
from meshproxy.observe.certificate import CertificateTexts, certificate_texts, peer_texts
from meshproxy.plugins import kinds_of

__all__ = [
    "FRAMING",
    "AlreadyAnswered",
    "BodyTooLarge",
    "CertificateTexts",
    "Duration",
    "Field",
    "FilterPlugin",
    "HeaderName",
    "HeaderText",
    "Headers",
    "Method",
    "Options",
    "PathText",
    "PositiveDuration",
    "PositiveSize",
    "Refuse",
    "Regex",
    "Response",
    "Size",
    "StringMatch",
    "Unfit",
    "ValueMatch",
    "certificate_texts",
    "peer_texts",
    "string_test",
]


@implementer(IPlugin, IFilterFactory)
class FilterPlugin:
    """
    A filter class as a plugin; a module of ``twisted/plugins/`` holds one for each filter.

    ``target`` is the class, or where it is (``"package.module:Class"``), imported when the filter
    is used and not before. The class's ``Options`` (a model, usually an
    :class:`meshproxy.api.Options`) is what a configuration may write; without that attribute the
    filter has none. The class is called with the options, or with nothing where there are none.
    Its ``implementer`` interfaces say where it can be used.
    """

    def __init__(self, name: str, help: str, target: type | str) -> None:  # noqa: A002
        self.name = name
        self.help = help
        self._target = target

    def __repr__(self) -> str:
        return f"FilterPlugin({self.name!r})"

    @property
    def filter(self) -> type:
        """The filter's class. Raises what importing it raises."""
        target = self._target
        if isinstance(target, str):
            module, _, name = target.partition(":")
            target = self._target = getattr(importlib.import_module(module), name)
        return target

    @property
    def kinds(self) -> tuple[str, ...]:
        """Where it can be used."""
        return kinds_of(implementedBy(self.filter))

    @property
    def options(self) -> type[BaseModel] | None:
        """The model of its options, or None."""
        model: type[BaseModel] | None = getattr(self.filter, "Options", None)
        return model

    def create(self, options: Any) -> Any:
        """A filter; see :class:`meshproxy.interfaces.IFilterFactory`."""
        return self.filter() if options is None else self.filter(options)
