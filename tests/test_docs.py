"""The documentation is true: its commands, its listings, its examples and its reference."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field
from twisted.internet.task import Clock

from meshproxy import config
from meshproxy.api import FilterPlugin
from meshproxy.config import Configuration
from meshproxy.config.match import StringMatch
from meshproxy.config.roster import read_roster
from meshproxy.config.values import parse_duration
from meshproxy.http import replies
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.registry import Family, Registry
from meshproxy.reference import sections
from meshproxy.service import MeshService
from meshproxy.tap import Options
from meshproxy.tls.make_certs import make
from meshproxy.upstream.cluster import Cluster
from tests import harness, listings
from tests.harness import HOST, ROOT
from tests.listings import Command, blocks, commands, matches
from twisted.plugins import meshproxy_filters

DOCS = ROOT / "docs"
FILTERS = DOCS / "filters"
FILTER_PAGES = sorted(page for page in FILTERS.glob("*.rst") if page.stem != "index")
HOWTO = DOCS / "howto"
PAGES = [
    ROOT / "README.md",
    *sorted(DOCS.glob("*.rst")),
    FILTERS / "index.rst",
    *FILTER_PAGES,
    *sorted(HOWTO.glob("*.rst")),
]
#: Where the commands of a page are run: its examples are called there as the page calls them.
WITHIN = {
    FILTERS: "docs/examples",
    HOWTO: "docs/examples/howto",
    HOWTO / "tls.rst": "docs/examples",
}
EXAMPLES = [
    *sorted((DOCS / "examples").glob("*.yaml")),
    *sorted((DOCS / "examples" / "filters").glob("*.yaml")),
]
#: Those with a folder of plugins, which no other test is to see.
EXTENDED = sorted((DOCS / "examples" / "howto").glob("*.yaml"))

apart = pytest.mark.skipif(
    not listings.namespaces(), reason="needs curl, ip and unshare, and leave to use them"
)


def place(path: Path) -> str:
    """The path inside the repository, as an id of a test."""
    return path.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


def readme_commands() -> list[str]:
    """README's commands: the lines of its sh listings."""
    return [
        line
        for block in blocks((ROOT / "README.md").read_text(), "sh")
        for line in block.splitlines()
    ]


def test_listings_are_read() -> None:
    """The reader of listings itself: languages, commands, continued output, wildcards."""
    text = (
        "a\n\n.. code-block:: console\n\n   $ one\n   1\n   2\n   $ two &\n\nb\n"
        "```console\n$ three\n```\n"
    )
    assert commands(text) == [Command("three", ""), Command("one", "1\n2"), Command("two &", "")]
    assert [command.goes_on for command in commands(text)] == [False, False, True]
    assert matches("a\n...\nd", "a\nb\nc\nd\n")
    assert not matches("a\n...\nd", "a\nb\n")
    assert matches("...", "")


@apart
def test_a_listing_that_is_wrong_fails(tmp_path: Path) -> None:
    """A page whose output is not what the command prints is found."""
    ended = listings.run_apart([Command("echo one", "two")], tmp_path)
    assert ended.returncode != 0
    assert "--- expected\ntwo\n--- printed\none" in ended.stderr


@apart
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page.read_text())], ids=place)
def test_the_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    """Every command of the page prints what the page says, in the order of the page."""
    shown = commands(page.read_text())
    if (
        page == DOCS / "index.rst"
    ):  # its first command, for a reader in a checkout, installs as well
        shown.insert(0, Command("twistd -n meshproxy", ""))
    within = WITHIN.get(page) or WITHIN.get(page.parent, ".")
    ended = listings.run_apart(shown, tmp_path, within)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the directory of certificates that the first command about TLS makes."""
    folder = tmp_path_factory.mktemp("with-certs")
    first = commands((HOWTO / "tls.rst").read_text())[0].line
    _, _, option, directory, *names = shlex.split(first)
    assert option == "--make-certs"
    make(folder / directory, names)
    return folder


@pytest.mark.parametrize("file", EXAMPLES, ids=place)
def test_an_example_is_good(
    file: Path, certificates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every example passes --check, with no warning."""
    if "certs/" in file.read_text():
        file = Path(shutil.copy(file, certificates))
    with pytest.raises(SystemExit) as ended:
        Options().parseOptions(["--check", "--config", str(file)])
    assert (ended.value.code, capsys.readouterr().err) == (0, "")


@pytest.mark.parametrize("file", EXTENDED, ids=place)
def test_an_example_with_plugins_is_good(file: Path, tmp_path: Path) -> None:
    """So does every example that brings filters along."""
    ended = harness.run(["--check", "--config", str(file)], tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_every_example_is_shown() -> None:
    """Each example is on a page."""
    text = "".join(page.read_text() for page in PAGES)
    named = [file.relative_to(DOCS).as_posix() for file in [*EXAMPLES, *EXTENDED]]
    assert [name for name in named if name not in text] == []


def test_the_readme_shows_a_good_configuration() -> None:
    """README's configuration is the HTTP example, word for word."""
    (shown,) = blocks((ROOT / "README.md").read_text(), "yaml")
    assert shown == (DOCS / "examples" / "http.yaml").read_text()
    assert not config.load(shown, "README.md").warnings


def test_the_links_of_the_readme() -> None:
    """What README links to is there."""
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_the_readme_has_two_commands() -> None:
    """The first runs the demonstration, the second the tests; the start page shows the first."""
    first, second = readme_commands()
    assert first.endswith("twistd -n meshproxy")
    assert second.endswith("-m pytest -n auto")
    assert first in (DOCS / "index.rst").read_text()


def test_every_flag_is_explained() -> None:
    """The table of response flags has every flag that a reply of ours carries."""
    text = (DOCS / "operating.rst").read_text()
    made = {
        value.flags.decode() for value in vars(replies).values() if isinstance(value, replies.Reply)
    }
    source = "".join(
        path.read_text()
        for room in ("http", "tcp", "filters")
        for path in (ROOT / "meshproxy" / room).rglob("*.py")
    )
    assigned = set(re.findall(r'flags\b[^=\n]*= ?b"([A-Z,]+)"', source))
    assigned |= set(re.findall(r': b"([A-Z]+)",$', source, re.MULTILINE))
    flags = {flag for flags in made | assigned for flag in flags.split(",") if flag}
    assert {"UF", "UT", "DC", "DT", "UO", "URX", "RL", "FI", "UAEX"} <= flags
    assert [flag for flag in sorted(flags) if f"``{flag}``" not in text] == []


def test_every_metric_of_a_cluster_is_explained() -> None:
    """The page names every metric that clusters and endpoints have, and no other."""
    text = (DOCS / "upstreams.rst").read_text()
    table = text[text.index("Name, after ``meshproxy_cluster_``") :]
    table = table[: table.index("With ``endpoint_metrics")]
    rows = re.findall(r"^   \* - (.*(?:\n       .*)*)\n     - ", table, re.MULTILINE)
    told = {
        name
        for row in rows
        for name in re.findall(r"``(\w+)``", row)
        if name not in ("class", "reason", "state", "priority")
    }
    registry = Registry()
    model = config.Cluster.model_validate(
        {
            "endpoints": ["127.0.0.1:1"],
            "endpoint_metrics": True,
            "circuit_breaker": {},
            "limits": {"high": {}},
        }
    )
    Cluster("api", model, registry, TimerWheel(Clock()))
    made = {family.name for family in registry.families}
    assert {name for name in made if name.startswith("meshproxy_cluster_")} == {
        f"meshproxy_cluster_{name}" for name in told
    }
    named = set(re.findall(r"``(meshproxy_endpoint_\w+)``", text))
    assert {name for name in made if name.startswith("meshproxy_endpoint_")} == named


def metrics_of_tls(certificates: Path) -> dict[str, Family]:
    """What is counted where there is TLS on both sides, by its names."""
    file = shutil.copy(DOCS / "examples" / "tls-upstream.yaml", certificates)
    families = MeshService(config.load_file(file), Clock()).registry.families
    return {family.name: family for family in families}


def test_every_metric_of_tls_is_explained(certificates: Path) -> None:
    """The section on TLS names all that it counts, and each reason of a failure in its row."""
    text = (DOCS / "operating.rst").read_text()
    made = {name: one for name, one in metrics_of_tls(certificates).items() if "_tls_" in name}
    assert "meshproxy_listener_tls_handshakes_total" in made
    assert [name for name in sorted(made) if f"``{name}``" not in text] == []
    for side in ("listener", "cluster"):
        family = made[f"meshproxy_{side}_tls_failures_total"]
        _, _, row = text.partition(f"   * - ``{family.name}``")
        told = set(re.findall(r"``(\w+)``", row.partition("   * -")[0]))
        at = family.label_names.index("reason")
        assert {labels[at] for labels in family.series} == told - {"reason", "max_handshakes"}


def test_every_metric_that_a_page_names_exists(certificates: Path) -> None:
    """A whole name on any page is one that a running proxy has."""
    loaded = config.load_file(DOCS / "examples" / "tcp-failover.yaml")
    web = config.load_file(DOCS / "examples" / "resilient.yaml")
    shedding = config.load_file(DOCS / "examples" / "overload.yaml")
    made = set(metrics_of_tls(certificates))
    for mesh in (loaded, web, shedding):
        made |= {family.name for family in MeshService(mesh, Clock()).registry.families}
    named = {
        name
        for page in PAGES
        for name in re.findall(
            r"(meshproxy_(?:listener|route|cluster|tls)_\w+[a-z])", page.read_text()
        )
    }
    assert "meshproxy_cluster_responses_total" in named
    assert [name for name in sorted(named) if not any(m.startswith(name) for m in made)] == []


def test_the_table_of_timeouts() -> None:
    """Every row has the default of its key, and all keys of `timeouts` are there."""
    text = (DOCS / "upstreams.rst").read_text()
    text = text[text.index("In ``timeouts``") :]
    rows = re.findall(
        r"^   \* - ``(?:pool\.)?(\w+)``\n     - (.*)\n     - (\w+)\n     -(?: ``(\w+)``)?\n",
        text,
        re.MULTILINE,
    )
    models: dict[str, type[BaseModel]] = {
        "HTTP listener": config.Http,
        "HTTP listener, or route": config.Http,
        "listener": config.Tcp,
        "TCP listener": config.Tcp,
        "route, or cluster": config.Route,
        "``retry``": config.Retry,
        "cluster": config.Cluster,
    }
    assert len(rows) == 12
    for key, where, default, _ in rows:
        fields = models[where].model_fields
        field = fields[key] if key in fields else config.Pool.model_fields[key]
        assert parse_duration(default) == field.default, key
    assert {of for *_, of in rows if of} == set(config.Timeouts.model_fields)


def test_every_choice_is_explained() -> None:
    """The tables of the upstreams page have every way to balance and every retry condition."""
    text = (DOCS / "upstreams.rst").read_text()
    definitions = config.schema()["$defs"]
    words = definitions["Retry"]["properties"]["on"]["items"]["enum"]
    balance = definitions["Cluster"]["properties"]["balance"]
    words += balance.get("anyOf", [balance])[0]["enum"]
    assert [word for word in words if f"   * - ``{word}``\n" not in text] == []


def test_the_rosters_of_the_examples() -> None:
    """What the file-discovery example reads is a good list of endpoints."""
    loaded = config.load_file(DOCS / "examples" / "file-discovery.yaml")
    discovery = loaded.configuration.clusters["api"].discovery
    assert discovery is not None
    roster = DOCS / "examples" / str(discovery.file)
    assert [endpoint.weight for endpoint in read_roster(roster.read_text(), "r")] == [1, 2]


def extension(name: str) -> Any:
    """A module of the documentation's own; skips where Sphinx is not installed."""
    sys.path.insert(0, str(DOCS / "_ext"))
    try:
        return pytest.importorskip(name, reason="needs the docs extra")
    finally:
        sys.path.remove(str(DOCS / "_ext"))


def filter_pages() -> dict[str, FilterPlugin]:
    """Every filter that meshproxy brings along, by the name of its page."""
    found = [held for held in vars(meshproxy_filters).values() if isinstance(held, FilterPlugin)]
    return {
        plugin.name if "http" in plugin.kinds else f"tcp_{plugin.name}": plugin for plugin in found
    }


def sections_of(page: Path) -> dict[str, str]:
    """The sections of a page, its title (with what comes before the first section) among them."""
    parts = re.split(r"^(\S.*)\n([*=-])\2+\n", page.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::3], parts[3::3], strict=True))


def test_every_filter_has_its_page() -> None:
    """Each built-in filter has a page and an example, and each page and example a filter."""
    names = sorted(filter_pages())
    assert [page.stem for page in FILTER_PAGES] == names
    examples = (DOCS / "examples" / "filters").glob("*.yaml")
    assert sorted(file.stem for file in examples) == names


def test_the_configuration_of_the_filters_start_page() -> None:
    """It is good, its filters and their options included."""
    (shown,) = blocks((FILTERS / "index.rst").read_text(), "yaml")
    loaded = config.load(shown, "index.rst")
    assert not loaded.warnings
    MeshService(loaded, Clock())


@pytest.mark.parametrize("page", FILTER_PAGES, ids=place)
def test_a_filters_page(page: Path) -> None:
    """A filter's page has its sections and no other, its own options, and runs its example."""
    plugin = filter_pages()[page.stem]
    title, *names = sections_of(page)
    assert title == page.stem
    assert names == ["What it does", "Options", "Example", "Metrics"]
    text = sections_of(page)
    kind = "tcp" if page.stem.startswith("tcp_") else "http"
    assert f".. filter-options:: {kind} {plugin.name}\n" in text["Options"]
    assert f".. literalinclude:: /examples/filters/{page.stem}.yaml\n" in text["Example"]
    shown = [command.line for command in commands(text["Example"])]
    assert any(f"--config filters/{page.stem}.yaml" in line for line in shown)


@pytest.mark.parametrize("page", FILTER_PAGES, ids=place)
def test_the_metrics_of_a_filters_page(page: Path) -> None:
    """The page names the metrics that its example's filter has, all of them and no other."""
    loaded = config.load_file(DOCS / "examples" / "filters" / f"{page.stem}.yaml")
    prefix = f"meshproxy_filter_{filter_pages()[page.stem].name}_"
    families = MeshService(loaded, Clock()).registry.families
    made = {family.name for family in families if family.name.startswith(prefix)}
    named = set(re.findall(r"``(meshproxy_filter_\w+)", sections_of(page)["Metrics"]))
    assert {name for name in named if name.startswith(prefix)} == made
    everywhere = {"answers", "waits", "errors"}
    assert named - made <= {f"meshproxy_filter_{name}_total" for name in everywhere}


class Inner(config.section.Section):
    """How *much*, re`fuse`d."""

    at: float = Field(default=1.5, description="A `number`.")


class Outer(config.section.Section):
    inner: list[Inner] = Field(default=[], description="Inner.")
    value: StringMatch = Field(description="A value.")


def test_the_options_of_a_filter_are_generated() -> None:
    """Lines for the options of a model, of models inside it, and none for those shown elsewhere."""
    options = extension("filter_options")
    text = "\n".join(options.page("http", "x", Outer))
    assert "``inner`` — list of :ref:`Inner <filter-http-x-inner>`, default ``[]``" in text
    assert "``value`` — :ref:`StringMatch <config-stringmatch>`, required" in text
    assert (
        ".. _filter-http-x-inner:\n\n.. rubric:: Inner\n\nHow \\*much\\*, re\\ ``fuse``\\ d."
        in text
    )
    assert "``at`` — number, default ``1.5``\n    A ``number``." in text
    assert ".. rubric:: StringMatch" not in text
    assert next(options.page("http", "x", None)) == "It has no options."
    with pytest.raises(LookupError, match="no filter 'nothing' of kind 'http'"):
        options.plugin("http", "nothing")


def test_the_reference_is_generated() -> None:
    """The reference's lines, made when the pages are built, have every key of the model."""
    reference = extension("configuration_reference")
    found = sections(Configuration)
    text = "\n".join(reference.page(found))
    for section in found:
        for key in section.keys:
            assert f"``{key.name}`` — " in text
    assert ":ref:`Listener <config-listener>`" in text


@pytest.mark.slow
def test_the_pages_build(tmp_path: Path) -> None:
    """Sphinx builds them without a warning."""
    pytest.importorskip("sphinx", reason="needs the docs extra")
    pytest.importorskip("furo", reason="needs the docs extra")
    words = [sys.executable, "-m", "sphinx", "-W", "-q", str(DOCS), str(tmp_path / "pages")]
    ended = harness.command(words, tmp_path)
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "pages" / "configuration.html").read_text()
    assert "connect_timeout" in page


def checkout(directory: Path) -> Path:
    """What a clone of the repository would hold: the files that git knows, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, directory / name)
    return directory


@pytest.mark.slow
@apart
def test_readmes_first_command(tmp_path: Path) -> None:
    """In a fresh checkout it makes the environment, installs, and runs the demonstration."""
    clone = checkout(tmp_path / "clone")
    install, _, run = readme_commands()[0].rpartition(" && ")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    installed = subprocess.run(
        ["bash", "-c", install], cwd=clone, env=clean, capture_output=True, text=True, check=False
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    (clone / "meshproxy").rename(clone / "not-imported-from-here")
    there = shlex.quote(str(clone))
    page = [
        Command(f"env -C {there} -u PYTHONPATH {run}", ""),
        Command(f"curl -s http://{HOST}:8080/", "hello from upstream one"),
        Command(f"curl -s http://{HOST}:8080/", "hello from upstream two"),
        Command(f"exec 3<>/dev/tcp/{HOST}/8081; echo hello >&3; head -1 <&3", "hello"),
        Command(f"curl -s http://{HOST}:9901/metrics | grep -c ^meshproxy_", "..."),
    ]
    ended = listings.run_apart(page, tmp_path / "place")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "curl http://127.0.0.1:8080/" in ended.stderr


def test_news_has_its_kinds() -> None:
    """Every news fragment has a kind that towncrier knows, and says something."""
    known = set(
        re.findall(r'^directory = "(\w+)"$', (ROOT / "towncrier.toml").read_text(), re.MULTILINE)
    )
    fragments = [path for path in (ROOT / "newsfragments").iterdir() if path.suffix == ".md"]
    assert fragments
    for path in fragments:
        assert path.name.split(".")[-2] in known, path.name
        assert path.read_text().strip()
