"""The house rules that can be read from the source: floors, names, sizes, a test a module."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

PACKAGE = ROOT / "meshproxy"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FLOORS = (
    {"interfaces", "errors"},
    {"plugins"},
    {"config", "net", "observe"},
    {"tls"},
    {"upstream"},
    {"tcp", "udp", "dns", "http"},
    {"api"},
    {"filters", "testing"},
    {
        "admin",
        "certificates",
        "chains",
        "demo",
        "overload",
        "reference",
        "service",
        "upstreams",
        "workers",
    },
    {"tap"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SHARED_FLOOR = FLOOR["service"]  # its rooms compose the others and may know each other

# What a filter may know of meshproxy: no more than a user's own filter does.
OPEN_TO_FILTERS = {"api", "interfaces", "errors", "filters"}

LONGEST = 600
FORBIDDEN = {"handler", "handlers", "manager", "managers", "util", "utils", "helper", "helpers"}

# Dropins, that is, are listed for names and sizes too.
SOURCES = [*MODULES, *TESTS, *sorted((ROOT / "twisted").rglob("*.py"))]


def relative(path: Path) -> str:
    """The path from the top of the repository, for the names of tests."""
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """The room (package or module directly in meshproxy) that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute name of everything that a module imports, wherever in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join((*above, base) if base else above)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def climbs(room: str, target: str) -> bool:
    """Whether an import from ``room`` to the room ``target`` breaks the rule of the floors."""
    if target == room:
        return False
    here, there = FLOOR[room], FLOOR[target]
    return there > here or (there == here and here != SHARED_FLOOR)


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_go_down(path: Path) -> None:
    """A module imports from lower floors and its own room only, also inside its functions."""
    room = room_of(path)
    if room == "__init__":
        assert not [name for _, name in imported(path) if name.startswith("meshproxy")]
        return
    assert room in FLOOR, f"the room {room} has no floor"
    wrong = []
    for line, name in imported(path):
        parts = name.split(".")
        if parts[0] != "meshproxy" or len(parts) < 2 or parts[1].startswith("__"):
            continue
        if climbs(room, parts[1]):
            wrong.append(f"{relative(path)}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("path", sorted((PACKAGE / "filters").rglob("*.py")), ids=relative)
def test_filters_are_written_as_a_users_would_be(path: Path) -> None:
    """A built-in filter imports nothing of meshproxy that is closed to others, and no reactor."""
    wrong = []
    for line, name in imported(path):
        parts = name.split(".")
        closed = parts[0] == "meshproxy" and (len(parts) < 2 or parts[1] not in OPEN_TO_FILTERS)
        if closed or name.startswith("twisted.internet.reactor"):
            wrong.append(f"{relative(path)}:{line} imports {name}")
    assert not wrong


@pytest.mark.parametrize("path", sorted((PACKAGE / "filters").rglob("*.py")), ids=relative)
def test_filters_import_what_is_heavy_when_it_is_used(path: Path) -> None:
    """treq and twisted.web cost a start-up that has no use for them: functions import them."""
    wrong = []
    for node in ast.parse(path.read_bytes()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        wrong += [name for name in names if name.startswith(("treq", "twisted.web"))]
    assert not wrong


def test_the_rule_tells_up_from_down() -> None:
    """The rule itself: down is right; up, and sideways where it is forbidden, is wrong."""
    assert not climbs("http", "upstream")
    assert not climbs("demo", "service")
    assert not climbs("http", "http")
    assert climbs("upstream", "http")
    assert climbs("http", "tcp")
    assert climbs("config", "observe")
    assert climbs("api", "filters")
    assert not climbs("config", "plugins")


def test_interfaces_import_zope_and_the_standard_library_only() -> None:
    """A plugin's author can import the interfaces anywhere, without the reactor or pydantic."""
    roots = {name.split(".")[0] for _, name in imported(PACKAGE / "interfaces.py")}
    assert roots <= {"zope", *sys.stdlib_module_names}


def test_the_command_line_does_not_import_the_reactor() -> None:
    """twistd imports meshproxy.tap before --reactor is obeyed: it must leave the choice open."""
    code = (
        "import sys, meshproxy.tap, twisted.plugins.meshproxy_service, "
        "twisted.plugins.meshproxy_filters; "
        "sys.exit('twisted.internet.reactor' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_module_has_its_tests() -> None:
    """meshproxy/a/b.py is tested by tests/a/test_b.py."""
    missing = []
    for path in MODULES:
        inside = path.relative_to(PACKAGE)
        if inside.name != "__init__.py":
            test = ROOT / "tests" / inside.parent / f"test_{inside.name}"
            if not test.exists():
                missing.append(f"{relative(path)} has no {relative(test)}")
    assert not missing


def test_every_folder_of_tests_is_a_package() -> None:
    """Tests of the same name in different folders do not clash; a folder of plugins has none."""
    folders = {path.parent for path in TESTS if path.parent.name != "plugins"}
    assert not [relative(folder) for folder in folders if not (folder / "__init__.py").exists()]


def test_twisted_plugins_stays_open() -> None:
    """An __init__.py in twisted/ would hide Twisted itself, or other people's plugins."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_sizes_and_names(path: Path) -> None:
    """No module exceeds 600 lines, and nothing has a name that says nothing."""
    text = path.read_text()
    assert text.count("\n") <= LONGEST
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    defined = [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    names = [path.stem, *defined]
    assert not [name for name in names if words(name) & FORBIDDEN]


def words(name: str) -> set[str]:
    """The words of snake_case or CamelCase, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", name)}
