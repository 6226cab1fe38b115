"""Plugins are found by interface, name and kind; what cannot be used is named and harms nobody."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from twisted.plugin import getPlugins
from zope.interface import implementer

import twisted.plugins
from meshproxy.errors import PluginError
from meshproxy.interfaces import (
    IAccessLog,
    IConnectionServer,
    IContextFilter,
    IDiscovery,
    IFilterFactory,
    IFilterService,
    IRequestBodyFilter,
    IRequestFilter,
)
from meshproxy.plugins import Plugins, add_directory, find, serves, verify_filter

GOOD = """
    from twisted.plugin import IPlugin
    from zope.interface import implementer
    from meshproxy.interfaces import IFilterFactory

    @implementer(IPlugin, IFilterFactory)
    class Factory:
        options = None
        def __init__(self, name, *kinds):
            self.name = name
            self.kinds = kinds or ("http",)
            self.help = "does " + name
        def create(self, options):
            return self
"""
LAZY = """
    from meshproxy.api import FilterPlugin
    lazy = FilterPlugin("lazy", "Comes when it is called.", "no_such_package:Filter")
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


def names(found: Plugins) -> dict[str, int]:
    """How many plugins there are of each name."""
    return {name: len(held) for name, held in found.by_name.items()}


def test_finds_what_getplugins_finds(make: MakePackage) -> None:
    """The plugins are those of Twisted's own search, by name and in order of their names."""
    package = make(one=GOOD + "\n    b = Factory('beta')\n    a = Factory('alpha')\n")
    found = find(IFilterFactory, package)
    assert list(found.by_name) == ["alpha", "beta"]
    plugins = {one.plugin for held in found.by_name.values() for one in held}
    assert plugins == set(getPlugins(IFilterFactory, package))
    assert (found.refused, found.broken) == ({}, ())
    assert found.get("alpha").help == "does alpha"
    assert found.by_name["alpha"][0].where == f"{package.__name__}.one.a"


def test_other_plugins_are_not_imported(make: MakePackage) -> None:
    """With Twisted's cache written, a dropin without such a plugin is not imported for a search."""
    package = make(
        other="from twisted.plugin import IPlugin\n", one=GOOD + "\n    a = Factory('a')\n"
    )
    find(IFilterFactory, package)
    del sys.modules[f"{package.__name__}.other"]
    find(IFilterFactory, package)
    assert f"{package.__name__}.other" not in sys.modules


def test_what_a_plugin_leads_to_is_imported_when_it_is_asked_for(make: MakePackage) -> None:
    """Looking asks nobody for its kinds; asking for a name does not ask the others."""
    package = make(one=GOOD + "\n    a = Factory('a')\n", two=LAZY)
    found = find(IFilterFactory, package)
    assert names(found) == {"a": 1, "lazy": 1}
    assert (found.refused, found.broken) == ({}, ())
    assert found.get("a", "http").name == "a"
    with pytest.raises(PluginError) as caught:
        found.get("lazy", "http")
    assert str(caught.value) == (
        f"the filter 'lazy' of {package.__name__}.two.lazy cannot be used: "
        "ModuleNotFoundError: No module named 'no_such_package'"
    )


def test_two_of_one_name_and_kind_are_refused(make: MakePackage) -> None:
    """Neither is used, both places are named, and the others are unharmed."""
    package = make(
        one=GOOD + "\n    a = Factory('same')\n    c = Factory('other')\n",
        two=GOOD + "\n    b = Factory('same', 'tcp', 'http')\n",
    )
    found = find(IFilterFactory, package)
    assert found.get("other", "http").name == "other"
    with pytest.raises(PluginError, match=r"more than once, in .*one\.a and .*two\.b"):
        found.get("same", "http")
    assert found.get("same", "tcp").kinds == ("tcp", "http")
    assert list(found.of("http")) == ["other"]
    assert list(found.of("tcp")) == ["same"]


def test_two_of_one_name_for_different_kinds(make: MakePackage) -> None:
    """Each is given for its own kind; for another, it is said where they can be used."""
    package = make(
        one=GOOD + "\n    a = Factory('x', 'http')\n    b = Factory('x', 'tcp')\n",
        two=GOOD + "\n    c = Factory('far', 'udp')\n    d = Factory('further', 'udp', 'dns')\n",
        six=GOOD + "\n    e = Factory('lot', 'balancer')\n"
        "    f = Factory('both', 'tcp', 'access_log')\n",
    )
    found = find(IFilterFactory, package)
    assert [found.get("x", kind).kinds for kind in ("http", "tcp")] == [("http",), ("tcp",)]
    for name, kind, message in (
        ("x", "listener", "'x' is a filter for http and tcp, not for listener_filters"),
        ("far", "http", "'far' is a filter for UDP, and no listener speaks UDP yet"),
        (
            "further",
            "tcp",
            "'further' is a filter for UDP or DNS, and no listener speaks UDP or DNS yet",
        ),
        ("x", "balancer", "'x' is a filter for http and tcp, not a balancer"),
        ("lot", "http", "'lot' is a balancer, not a filter for http"),
        ("lot", "access_log", "'lot' is a balancer, not an access log"),
        ("both", "http", "'both' is a filter for tcp and an access log, not for http"),
        ("lit", "balancer", "there is no balancer called 'lit'; did you mean 'lot'?"),
    ):
        with pytest.raises(PluginError) as caught:
            found.get(name, kind)
        assert str(caught.value) == message


def test_a_broken_one_does_not_hide_its_namesake(make: MakePackage) -> None:
    """Where one of a name cannot be imported, the other is still there for its kind."""
    source = LAZY.replace('"lazy", ', '"x", ')
    package = make(one=GOOD + "\n    a = Factory('x', 'tcp')\n", two=source)
    found = find(IFilterFactory, package)
    assert found.get("x", "tcp").kinds == ("tcp",)
    with pytest.raises(PluginError, match="No module named 'no_such_package'"):
        found.get("x", "http")


def test_one_that_breaks_its_promise_is_refused(make: MakePackage) -> None:
    """A plugin without ``create`` is refused by name; one whose ``create`` is wrong, when asked."""
    package = make(
        one=GOOD + "\n    del Factory.create\n    a = Factory('half')\n",
        two=GOOD + "\n    Factory.create = lambda self: None\n    a = Factory('wrong')\n",
    )
    found = find(IFilterFactory, package)
    assert list(found.by_name) == ["wrong"]
    with pytest.raises(PluginError) as caught:
        found.get("half")
    where = f"{package.__name__}.one.a"
    assert str(caught.value) == f"the filter 'half' of {where} is refused: it has no 'create'"
    with pytest.raises(PluginError, match=r"'wrong' .*is refused: .*create"):
        found.get("wrong", "http")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.kinds = 'http'", "its kinds are 'http', and not some of http, tcp, listener, udp, dns"),
        ("a.kinds = ('http', 'ftp')", "its kinds are ('http', 'ftp'), and not some of http, tcp, "),
        ("a.kinds = ()", "it is of no kind, as it provides none of the interfaces of filters"),
        ("a.options = dict", "its options are <class 'dict'>, and neither a pydantic model nor N"),
    ],
)
def test_one_that_says_nonsense_of_itself(make: MakePackage, line: str, message: str) -> None:
    """Kinds that nobody knows, and options that validate nothing, are refused by name."""
    package = make(one=GOOD + f"\n    a = Factory('a')\n    {line}\n")
    with pytest.raises(PluginError) as caught:
        find(IFilterFactory, package).get("a", "http")
    where = f"{package.__name__}.one.a"
    assert str(caught.value).startswith(f"the filter 'a' of {where} is refused: {message}")


def test_one_without_a_name_is_refused(make: MakePackage) -> None:
    """A plugin that nobody could ask for is told of."""
    package = make(one=GOOD + "\n    a = Factory('x')\n    a.name = None\n")
    found = find(IFilterFactory, package)
    assert not found.by_name
    assert list(found.refused) == [f"{package.__name__}.one.a"]


def test_a_module_that_does_not_import_is_named(make: MakePackage) -> None:
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


def test_what_the_cache_does_not_know_is_found_afresh(
    make: MakePackage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropin that gets its plugins from elsewhere is as new as that, if it is asked afresh."""
    library = f"dropins_library_{next(numbers)}"
    (tmp_path / f"{library}.py").write_text("")
    package = make(one=f"from {library} import *\n", bad="1/0\n")
    assert names(find(IFilterFactory, package)) == {}
    (tmp_path / f"{library}.py").write_text(dedent(GOOD) + "\na = Factory('late')\n# longer\n")
    importlib.invalidate_caches()
    for name in (library, f"{package.__name__}.one"):
        del sys.modules[name]
    assert names(find(IFilterFactory, package)) == {}
    found = find(IFilterFactory, package, fresh=True)
    assert names(found) == {"late": 1}
    assert found.broken == (
        f"{package.__name__}.bad does not import: ZeroDivisionError: division by zero",
    )


def test_a_module_full_of_odd_names_harms_nobody(make: MakePackage) -> None:
    """Twisted's search falls over a zope metaclass among a module's names; ours finds the rest."""
    package = make(
        odd="from zope.interface.interface import InterfaceClass\n"
        "import zope.interface.interface as z\nmeta = type(InterfaceClass('I'))\n"
        "kind = z.InterfaceBase\n",
        one=GOOD + "\n    a = Factory('a')\n",
    )
    for fresh in (False, True):
        assert names(find(IFilterFactory, package, fresh=fresh)) == {"a": 1}


def test_a_near_miss_is_suggested(make: MakePackage) -> None:
    """Asking for a name that is not there says which of that kind was probably meant."""
    package = make(
        one=GOOD + "\n    a = Factory('rate_limit')\n    b = Factory('rate_limits', 'tcp')\n"
    )
    found = find(IFilterFactory, package)
    with pytest.raises(PluginError, match=r"did you mean 'rate_limit'\?"):
        found.get("ratelimit")
    assert found.near("rate-limitz", "tcp") == "rate_limits"
    assert found.near("rate_limitz", "http") == "rate_limit"
    assert found.near("rate_limitz", "dns") is None
    assert found.near("r" * 1000) is None
    assert found.near("quite_different") is None


@pytest.mark.parametrize("inner", ["", "twisted/plugins"])
def test_directories(inner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of plugins, or one that holds ``twisted/plugins``; what lies in it is importable."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__])
    number = next(numbers)
    folder = tmp_path / inner
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / f"beside_{number}.py").write_text(dedent(GOOD))
    (folder / f"added_{number}.py").write_text(
        f"from beside_{number} import Factory\na = Factory('added_{number}')\n"
    )
    for _ in range(2):
        add_directory(str(tmp_path))
    assert sys.path.count(str(tmp_path)) == 1
    assert twisted.plugins.__path__.count(str(folder)) == 1
    assert find(IFilterFactory).get(f"added_{number}", "http").help == f"does added_{number}"


@implementer(IConnectionServer)
class Server:
    """Serves, as it says."""

    def serve(self, connection: Any) -> None:
        """Do nothing."""

    def serve_data(self, connection: Any, data: bytes, end: bool) -> None:
        """Do nothing."""


def test_who_serves_connections() -> None:
    """A factory says so itself, or its class of filters does."""
    assert serves(SimpleNamespace(filter=Server))
    assert serves(SimpleNamespace(serves=True))
    assert not serves(SimpleNamespace(serves=False, filter=Server))
    assert not serves(SimpleNamespace(filter=SimpleNamespace))
    assert not serves(SimpleNamespace())


def filter_of(*interfaces: Any, **methods: Any) -> Any:
    """An object that says that it provides these interfaces, with these methods."""
    return implementer(*interfaces)(type("Made", (), methods))()


def test_filters_are_verified() -> None:
    """It is of the kind, and every interface that it provides is there; what may be absent may."""
    verify_filter(Server(), "tcp")
    verify_filter(
        filter_of(IRequestBodyFilter, request_data=lambda self, exchange, data, end: None), "http"
    )
    for made, kind, message in (
        (Server(), "listener", "it provides none of IListenerFilter"),
        (
            filter_of(IRequestFilter, request=lambda self: None),
            "http",
            r"it provides IRequestFilter badly: .*request.* doesn't allow enough arguments",
        ),
        (filter_of(IRequestBodyFilter), "http", r"IRequestBodyFilter badly: .*request_data"),
        (filter_of(IAccessLog), "access_log", r"it provides IAccessLog badly: .*log"),
        (filter_of(IAccessLog), "balancer", r"it provides none of IBalancing"),
        (filter_of(IDiscovery, IFilterService), "discovery", r"it cannot provide IFilterService"),
        (
            filter_of(IRequestFilter, IFilterService, request=lambda self, exchange: None),
            "http",
            r"it provides IFilterService badly: .*(start|stop)",
        ),
        (
            filter_of(
                IRequestFilter, IContextFilter, request=lambda self, exchange: None, attach=3
            ),
            "http",
            r"it provides IContextFilter badly: .*attach",
        ),
    ):
        with pytest.raises(PluginError, match=message):
            verify_filter(made, kind)


def test_a_module_that_does_not_import_is_told_in_a_line(
    make: MakePackage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twisted would print its traceback, twice; what is told here is enough."""
    import twisted.plugin

    log = twisted.plugin.log  # type: ignore[attr-defined]
    found = find(IFilterFactory, make(broken="import no_such_module_anywhere\n"))
    assert len(found.broken) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert twisted.plugin.log is log  # type: ignore[attr-defined]
