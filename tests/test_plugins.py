"""Plugins are found by interface and name; what cannot be used is named and harms nobody."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest
from twisted.plugin import getPlugins

from meshproxy.errors import PluginError
from meshproxy.interfaces import IFilterFactory
from meshproxy.plugins import find

GOOD = """
    from twisted.plugin import IPlugin
    from zope.interface import implementer
    from meshproxy.interfaces import IFilterFactory

    @implementer(IPlugin, IFilterFactory)
    class Factory:
        options = None
        def __init__(self, name):
            self.name = name
            self.help = "does " + name
        def create(self, options):
            return self
"""

numbers = itertools.count()
MakePackage = Callable[..., ModuleType]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePackage]:
    """Write a package of dropins (module name → source) and import it."""

    def make(**modules: str) -> ModuleType:
        name = f"dropins_{next(numbers)}"
        folder = tmp_path / name
        folder.mkdir()
        (folder / "__init__.py").touch()
        for module, source in modules.items():
            (folder / f"{module}.py").write_text(dedent(source))
        monkeypatch.syspath_prepend(str(tmp_path))
        return importlib.import_module(name)

    yield make
    for name in [name for name in sys.modules if name.startswith("dropins_")]:
        del sys.modules[name]


def test_finds_what_getplugins_finds(make: MakePackage) -> None:
    """The plugins are those of Twisted's own search, by name and in order of their names."""
    package = make(one=GOOD + "\n    b = Factory('beta')\n    a = Factory('alpha')\n")
    found = find(IFilterFactory, package)
    assert list(found.by_name) == ["alpha", "beta"]
    assert set(found.by_name.values()) == set(getPlugins(IFilterFactory, package))
    assert (found.refused, found.broken) == ({}, ())
    assert found.get("alpha").help == "does alpha"


def test_other_plugins_are_not_imported(make: MakePackage) -> None:
    """With Twisted's cache written, a dropin without such a plugin is not imported for a search."""
    package = make(
        other="from twisted.plugin import IPlugin\n", one=GOOD + "\n    a = Factory('a')\n"
    )
    find(IFilterFactory, package)
    del sys.modules[f"{package.__name__}.other"]
    find(IFilterFactory, package)
    assert f"{package.__name__}.other" not in sys.modules


def test_two_of_one_name_are_refused(make: MakePackage) -> None:
    """Neither is used, both places are named, and the others are unharmed."""
    package = make(
        one=GOOD + "\n    a = Factory('same')\n    c = Factory('other')\n",
        two=GOOD + "\n    b = Factory('same')\n",
    )
    found = find(IFilterFactory, package)
    assert list(found.by_name) == ["other"]
    with pytest.raises(PluginError, match=r"more than once, in .*one\.a and .*two\.b"):
        found.get("same")


def test_one_that_breaks_its_promise_is_refused(make: MakePackage) -> None:
    """A plugin without ``create`` is refused by name, with what it lacks."""
    package = make(one=GOOD + "\n    del Factory.create\n    a = Factory('half')\n")
    found = find(IFilterFactory, package)
    assert not found.by_name
    with pytest.raises(PluginError, match=r"'half' .*create"):
        found.get("half")


def test_one_without_a_name_is_refused(make: MakePackage) -> None:
    """A plugin that nobody could ask for is told of."""
    package = make(one=GOOD + "\n    a = Factory('x')\n    a.name = None\n")
    found = find(IFilterFactory, package)
    assert not found.by_name
    assert list(found.refused) == [f"{package.__name__}.one.a"]


def test_a_module_that_does_not_import_is_named(
    make: MakePackage,
) -> None:
    """Its name and its traceback's last line are told; the other modules' plugins are found."""
    package = make(bad="import no_such_module_anywhere\n", good=GOOD + "\n    a = Factory('a')\n")
    found = find(IFilterFactory, package)
    assert list(found.by_name) == ["a"]
    (line,) = found.broken
    assert line.startswith(f"{package.__name__}.bad does not import: ModuleNotFoundError: ")
    assert "no_such_module_anywhere" in line
    with pytest.raises(PluginError, match="no_such_module_anywhere"):
        found.get("b")


def test_a_module_that_broke_after_it_was_cached_is_named(make: MakePackage) -> None:
    """Twisted's cache of a dropin outlives what it imports; that too is an error with a name."""
    package = make(one=GOOD + "\n    a = Factory('a')\n")
    name = f"{package.__name__}.one"
    find(IFilterFactory, package)
    del sys.modules[name]
    sys.modules["zope.interface"], kept = None, sys.modules["zope.interface"]  # type: ignore[assignment]
    try:
        found = find(IFilterFactory, package)
    finally:
        sys.modules["zope.interface"] = kept
    assert not found.by_name
    assert found.broken[0].startswith(f"{name}.a does not import: ")


def test_a_near_miss_is_suggested(make: MakePackage) -> None:
    """Asking for a name that is not there says which was probably meant."""
    package = make(one=GOOD + "\n    a = Factory('rate_limit')\n")
    with pytest.raises(PluginError, match="did you mean 'rate_limit'"):
        find(IFilterFactory, package).get("ratelimit")
