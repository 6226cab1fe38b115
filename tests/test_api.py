"""What a filter is written with."""

from __future__ import annotations

import subprocess
import sys

import pytest
from twisted.plugin import IPlugin
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshproxy import api
from meshproxy.api import Field, FilterPlugin
from meshproxy.interfaces import (
    IConnectionFilter,
    IFilterFactory,
    IListenerFilter,
    IRequestFilter,
)
from tests.harness import ROOT


@implementer(IRequestFilter)
class Plain:
    """Without options."""

    def request(self, exchange: object) -> None:
        """Nothing."""


@implementer(IConnectionFilter, IListenerFilter)
class WithOptions:
    """With options."""

    class Options(api.Options):
        """What it may be told."""

        word: str = Field(default="a", description="A word.")

    def __init__(self, options: Options) -> None:
        self.options = options

    def connected(self, connection: object) -> None:
        """Nothing."""

    def accepted(self, connection: object) -> None:
        """Nothing."""


def test_everything_is_there() -> None:
    """Every name that the module promises."""
    assert [name for name in api.__all__ if not hasattr(api, name)] == []


def test_a_class_as_a_plugin() -> None:
    """Its kinds are those of its interfaces; it is called with options where it has some."""
    plain = FilterPlugin("plain", "Does nothing.", Plain)
    assert verifyObject(IFilterFactory, plain)
    assert verifyObject(IPlugin, plain)
    assert (plain.kinds, plain.options) == (("http",), None)
    assert isinstance(plain.create(None), Plain)
    other = FilterPlugin("other", "Does nothing.", WithOptions)
    assert other.kinds == ("tcp", "listener")
    assert other.options is WithOptions.Options
    made = other.create(WithOptions.Options(word="b"))
    assert made.options.word == "b"


def test_a_class_by_its_place_is_imported_when_it_is_used() -> None:
    """Making the plugin imports nothing; what is not there raises when it is asked for."""
    name = "tests.integration.plugins.trouble"
    code = (
        "import sys\n"
        "from meshproxy.api import FilterPlugin\n"
        f"made = FilterPlugin('slow', 'Waits.', '{name}:Slow')\n"
        f"assert '{name}' not in sys.modules\n"
        "assert made.kinds == ('http',)\n"
        f"assert '{name}' in sys.modules\n"
        "assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(ModuleNotFoundError):
        _ = FilterPlugin("none", "Is not there.", "meshproxy.no_such_module:Class").kinds


def test_importing_it_imports_no_reactor_and_no_http_client() -> None:
    """Plugins are imported before the reactor is chosen, and treq takes long to import."""
    code = (
        "import sys, meshproxy.api\n"
        "sys.exit(any(name in sys.modules for name in ('twisted.internet.reactor', 'treq')))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
