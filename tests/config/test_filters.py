"""What may be written as a filter, what becomes of it, and what is said of what may not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from meshproxy.config import Configuration, FilterItem, Http, Listener, Tcp, load
from meshproxy.config.filters import Chain, Installed, masked, serving
from meshproxy.config.unfit import Unfit
from meshproxy.plugins import add_directory
from tests.config.texts import DROPINS, lines_of
from tests.config.texts import filtered as web
from tests.harness import ROOT

NEEDS = "one of 'requests' and 'size' is needed"


@pytest.fixture(autouse=True)
def searched() -> None:
    """The filters of the tests are installed."""
    add_directory(DROPINS)
    return


def http_of(text: str) -> Http:
    """The http of the listener of a text."""
    http = load(text, "m.yaml").configuration.listeners["web"].http
    assert http is not None
    return http


HTTP = "7:17: listeners.web.http.filters[0]"


@pytest.mark.parametrize(
    ("items", "problems"),
    [
        ("t_bare, t_limit: { requests: 1 }", []),
        ("t_bare: {}, { t_bare: {}, as: b }", []),
        ("t_short: /x, { t_short: { path: /y }, as: b }", []),
        # The filter.
        ("t_lmit", [f"{HTTP}: there is no filter 't_lmit'; did you mean 't_limit'?"]),
        ("zzz: {}", [f"{HTTP}: there is no filter 'zzz'"]),
        ("t_judg", [f"{HTTP}: there is no filter 't_judg'"]),
        ("t_serve", [f"{HTTP}: 't_serve' is a filter for tcp, not for http"]),
        ("t_judge", [f"{HTTP}: 't_judge' is a filter for tcp and listener_filters, not for http"]),
        (
            "t_datagram",
            [f"{HTTP}: 't_datagram' is a filter for UDP, and no listener speaks UDP yet"],
        ),
        ("t_query", [f"{HTTP}: 't_query' is a filter for DNS, and no listener speaks DNS yet"]),
        (
            "t_missing",
            [
                (
                    f"{HTTP}: the filter 't_missing' of twisted.plugins.tested_filters.missing "
                    "cannot be used: ModuleNotFoundError: No module named "
                    "'no_such_package_anywhere'"
                )
            ],
        ),
        # The form.
        ("5", [f"{HTTP}: the name of a filter is expected, or 'NAME: {{options}}', not 5"]),
        ("~", [f"{HTTP}: the name of a filter is expected, or 'NAME: {{options}}', not nothing"]),
        (
            "[t_bare]",
            [f"{HTTP}: the name of a filter is expected, or 'NAME: {{options}}', not a l"],
        ),
        ("{ as: b }", [f"{HTTP}: the name of a filter is missing"]),
        (
            "{ t_bare: {}, t_limit: { size: 1 } }",
            ["7:31: listeners.web.http.filters[0].t_limit: 't_limit' begins another filter, so"],
        ),
        (
            "{ t_limit: , requests: 1 }",
            [
                (
                    "7:30: listeners.web.http.filters[0].requests: 'requests' has to stand further "
                    "in, to be an option of 't_limit'"
                )
            ],
        ),
        (
            "{ t_limit: }",
            [
                (
                    "7:19: listeners.web.http.filters[0].t_limit: 't_limit' has no value; give it "
                    "options, or write its name without the ':'"
                )
            ],
        ),
        (
            "{ t_bare: {}, as: 5 }",
            ["7:35: listeners.web.http.filters[0].as: text is expected, not 5"],
        ),
        (
            "{ t_bare: {}, as: a b }",
            ["7:35: listeners.web.http.filters[0].as: a name is letters, digits, '_', '-' and"],
        ),
        (
            "t_bare, t_bare",
            [
                (
                    "7:25: listeners.web.http.filters[1]: 't_bare' is there already; give one a "
                    "name with 'as'"
                )
            ],
        ),
        (
            "{ t_limit: { size: 1 }, as: t_bare }, t_bare",
            ["7:55: listeners.web.http.filters[1]: 't_bare' is there already; give one a name"],
        ),
        # Off.
        (
            "t_bare: false",
            [(f"{HTTP}.t_bare: no filter is inherited here, so none can be switched off")],
        ),
        # The options.
        (
            "t_bare: { a: 1 }",
            [f"{HTTP}.t_bare: the filter 't_bare' has no options"],
        ),
        ("t_limit", [f"{HTTP}.t_limit: {NEEDS}"]),
        ("t_limit: {}", [f"{HTTP}.t_limit: {NEEDS}"]),
        (
            "t_limit: 5",
            ["7:26: listeners.web.http.filters[0].t_limit: a mapping (key: value) is e"],
        ),
        (
            "t_limit: { requests: 0, per: 5, kyes: [a] }",
            [
                "7:38: listeners.web.http.filters[0].t_limit.requests: this must be at least 1,",
                "7:46: listeners.web.http.filters[0].t_limit.per: a duration needs a unit (ms, s",
                (
                    "7:49: listeners.web.http.filters[0].t_limit.kyes: unknown key 'kyes'; did you "
                    "mean 'keys'?"
                ),
            ],
        ),
        (
            "t_limit: { size: 1, requests: 1, keys: [a] }",
            [
                "7:34: listeners.web.http.filters[0].t_limit.size: 'requests' is there alread",
                "7:50: listeners.web.http.filters[0].t_limit.keys: 'keys' does nothing beside '",
            ],
        ),
        (
            "t_limit: { requests: 1, rate: 1 }",
            [
                (
                    "7:41: listeners.web.http.filters[0].t_limit.rate: unknown key 'rate'; that is "
                    "'requests' here"
                )
            ],
        ),
        (
            "t_limit: { size: 1, rules: [{ path: x, value: { exat: a } }] }",
            [
                "7:53: listeners.web.http.filters[0].t_limit.rules[0].path: a path begins with '/'",
                (
                    "7:65: listeners.web.http.filters[0].t_limit.rules[0].value.exat: unknown key "
                    "'exat'; did you mean 'exact'?"
                ),
            ],
        ),
        (
            "t_limit: { size: 1, rules: [{}] }",
            [
                "7:45: listeners.web.http.filters[0].t_limit.rules[0].path: 'path' is missing",
            ],
        ),
        (
            "t_short: 5",
            ["7:26: listeners.web.http.filters[0].t_short: text is expected, not the n"],
        ),
        (
            "t_short: x",
            ["7:26: listeners.web.http.filters[0].t_short: a path begins with '/', and"],
        ),
        ("t_loose", [f"{HTTP}.t_loose.count: 'count' is missing"]),
        (
            "t_loose: { count: a, word: y }",
            [
                "7:35: listeners.web.http.filters[0].t_loose.count: a whole number is expected, n",
                (
                    "7:44: listeners.web.http.filters[0].t_loose.word: text that matches ^x is "
                    "expected, not 'y'"
                ),
            ],
        ),
    ],
)
def test_items(items: str, problems: list[str]) -> None:
    """Everything that is wrong with a filter of a listener's http is told at its own place."""
    found = lines_of(web(items))
    assert len(found) == len(problems), found
    for line, beginning in zip(found, problems, strict=True):
        assert line.startswith(beginning), line


@pytest.mark.parametrize(
    ("listener", "problems"),
    [
        ("t_judge, { t_judge: {}, as: b }", []),
        (
            "t_serve",
            [
                (
                    "5:24: listeners.web.listener_filters[0]: 't_serve' is a filter for tcp, not "
                    "for listener_filters"
                )
            ],
        ),
        (
            "t_judge: false",
            [
                (
                    "5:24: listeners.web.listener_filters[0].t_judge: no filter is inherited here, "
                    "so none can be switched off"
                )
            ],
        ),
    ],
)
def test_listener_filters(listener: str, problems: list[str]) -> None:
    """Those of a listener are of their own kind."""
    assert lines_of(web("", listener=listener)) == problems


@pytest.mark.parametrize(
    ("tcp", "problems"),
    [
        ("to: api", []),
        ("to: api, filters: [t_judge, t_either]", []),
        ("filters: [t_judge, t_serve]", []),
        ("filters: [t_judge]", ["4:21: listeners.db.tcp.to: 'to' is missing"]),
        ("tto: api", ["4:28: listeners.db.tcp.tto: unknown key 'tto'; did you mean 'to'?"]),
        (
            "to: api, filters: [t_serve]",
            [
                (
                    "4:28: listeners.db.tcp.to: 'to' does nothing beside the filter 't_serve', "
                    "which serves connections itself"
                )
            ],
        ),
        (
            "filters: [{ t_serve: {}, as: s }], max_connect_attempts: 2, subset: { a: b }",
            [
                (
                    "4:63: listeners.db.tcp.max_connect_attempts: 'max_connect_attempts' does "
                    "nothing beside the filter 's', which serves connections itself"
                ),
                (
                    "4:88: listeners.db.tcp.subset: 'subset' does nothing beside the filter 's', "
                    "which serves connections itself"
                ),
            ],
        ),
        (
            "filters: [t_serve, t_judge]",
            [
                (
                    "4:47: listeners.db.tcp.filters[1]: 't_serve' serves connections itself, so "
                    "nothing can come behind it"
                )
            ],
        ),
        (
            "filters: [t_serv]",
            [
                (
                    "4:38: listeners.db.tcp.filters[0]: there is no filter 't_serv'; did you mean "
                    "'t_serve'?"
                )
            ],
        ),
        (
            "to: api, connection_limit: 5",
            [
                (
                    "4:37: listeners.db.tcp.connection_limit: unknown key 'connection_limit'; "
                    "that is a filter, written 'filters: [connection_limit: {...}]', here"
                )
            ],
        ),
    ],
)
def test_tcp(tcp: str, problems: list[str]) -> None:
    """A cluster is needed but where the last filter serves connections, and only there not."""
    text = f"plugins: [{DROPINS}]\nlisteners:\n  db:\n    {{ listen: ':1', tcp: {{ {tcp} }} }}\n"
    if "to: api" in tcp and "tto" not in tcp:
        text += "clusters: { api: { endpoints: ['127.0.0.1:9'] } }\n"
    assert lines_of(text) == problems


@pytest.mark.parametrize(
    ("plugins", "problems"),
    [
        ("[a]", []),
        ("[]", []),
        ("[b]", ["1:11: plugins[0]: the directory '{base}/b' is not there"]),
        ("[a, mesh.yaml]", ["1:14: plugins[1]: the directory '{base}/mesh.yaml' is a file"]),
        ("[{base}/c]", ["1:11: plugins[0]: the directory '{base}/c' is not there"]),
        ("a", ["1:10: plugins: a list is expected, not the text 'a'; did you mean '[a]'?"]),
        ("[5]", ['1:11: plugins[0]: text is expected, not the number 5; put it in quotes: "5"']),
        ("['']", ["1:11: plugins[0]: the path of a directory is needed"]),
    ],
)
def test_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugins: str, problems: list[str]
) -> None:
    """Directories are relative to the file; one that is missing is told at its place."""
    import twisted.plugins

    base = str(tmp_path)[-40:]
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__])
    (tmp_path / "a").mkdir()
    file = tmp_path / "mesh.yaml"
    file.write_text(
        f"plugins: {plugins.replace('{base}', base)}\n"
        "listeners: { web: { listen: ':80', http: { routes: [{ respond: {} }] } } }\n"
    )
    found = []
    try:
        load(file.read_text(), str(file))
    except Exception as error:
        found = [line.removeprefix(f"{file}:") for line in str(error).splitlines()]
    shown = [line.replace(str(tmp_path), "{base}").replace(base, "{base}") for line in found]
    assert [line.split(": ")[0] for line in shown] == [line.split(": ")[0] for line in problems]
    for line, expected in zip(shown, problems, strict=True):
        assert line.split(": ", 1)[1].split("'")[0] == expected.split(": ", 1)[1].split("'")[0]
    assert (str(tmp_path / "a") in sys.path) == plugins.startswith("[a")


def test_what_becomes_of_items() -> None:
    """Names, labels, kinds and validated options, in the order of the file."""
    http = http_of(
        web(
            "t_bare, { t_limit: { requests: 5, rules: [{ path: /a, value: { exact: x } }] },"
            " as: outer }",
            "outer: false",
            "{ t_limit: { size: 1KiB }, as: outer }, t_short: /y",
        )
    )
    bare, limit = http.filters
    assert (bare.name, bare.label, bare.kind, bare.options, bare.off) == (
        "t_bare",
        "t_bare",
        "http",
        None,
        False,
    )
    assert bare.factory.name == "t_bare"
    assert (limit.name, limit.label, limit.options.requests, limit.options.per) == (
        "t_limit",
        "outer",
        5,
        1.0,
    )
    assert limit.options.rules[0].value.exact == "x"
    (off,) = http.hosts["a"].filters
    assert (off.label, off.off, off.factory) == ("outer", True, None)
    other, short = http.routes[0].filters
    assert (other.label, other.options.size, short.options.path) == ("outer", 1024, "/y")


def test_two_plugins_of_one_name() -> None:
    """One name may be a filter of several kinds; each place takes its own."""
    text = web("t_either", listener="t_either")
    listener = load(text, "m.yaml").configuration.listeners["web"]
    assert listener.http is not None
    kinds = [item.factory.kinds for item in (*listener.listener_filters, *listener.http.filters)]
    assert kinds == [("tcp", "listener"), ("http",)]


def test_secrets_are_not_shown() -> None:
    """Neither a repr nor a dump has them; what is dumped can be read again where none is there."""
    text = web(
        "{ t_limit: { requests: 1, keys: [hidden-one] }, as: outer }, t_short: /x, t_bare",
        "outer: false",
    )
    configuration = load(text, "m.yaml").configuration
    assert "hidden-one" not in repr(configuration)
    assert "hidden-one" not in repr(configuration.listeners["web"].http.filters)  # type: ignore[union-attr]
    for mode in ({"exclude_unset": True}, {}):
        dumped = configuration.model_dump(mode="json", **mode)  # type: ignore[arg-type]
        assert "hidden-one" not in json.dumps(dumped)
    shown = configuration.model_dump(mode="json", exclude_unset=True)["listeners"]["web"]["http"]
    assert shown["filters"] == [
        {"t_limit": {"requests": 1, "keys": "***"}, "as": "outer"},
        {"t_short": {"path": "/x"}},
        "t_bare",
    ]
    assert shown["hosts"]["a"]["filters"] == [{"outer": False}]


@pytest.mark.parametrize("keys", ["hidden-one", "[8472938472]", "{ a: hidden-one }", "8472938472"])
def test_what_is_wrong_with_a_secret_does_not_show_it(keys: str) -> None:
    """A message that would repeat the value goes to terminals and logs, so it does not."""
    (line,) = lines_of(web(f"t_limit: {{ requests: 1, keys: {keys} }}"))
    assert " is expected, not " in line
    assert "hidden-one" not in line
    assert "8472938472" not in line


def test_masked() -> None:
    """By the names of fields, at any depth; what is not set is no secret."""
    assert masked({"a": [{"Token": "x", "b": 1}], "users": {"u": "p"}, "key": None}) == {
        "a": [{"Token": "***", "b": 1}],
        "users": "***",
        "key": None,
    }


def test_limits_for_everybody_keep_filters() -> None:
    """Where `timeouts` are spread, each list of filters stays the same objects."""
    text = "timeouts: { exchange: 5s, headers: 5s }\n" + web("t_bare", "t_short", "t_short")
    http = http_of(text)
    assert [item.name for item in (*http.filters, *http.routes[0].filters)] == ["t_bare", "t_short"]
    assert http.hosts["a"].filters[0].label == "t_short"


def test_in_python() -> None:
    """A model takes the same forms, and items that exist."""
    http = Http.model_validate({"filters": ["t_bare", {"t_limit": {"requests": 1}}]})
    assert [item.name for item in http.filters] == ["t_bare", "t_limit"]
    again = Http.model_validate({"filters": list(http.filters)})
    assert again.filters[1] is http.filters[1]
    assert Tcp.model_validate({"filters": ["t_serve"]}).to is None
    for model, given in (
        (Http, {"filters": [{"t_limit": {"size": 1, "requests": 1}}]}),
        (Http, {"filters": [{"t_bare": False}]}),
        (Http, {"filters": [FilterItem("a", "a", "tcp")]}),
        (Tcp, {}),
        (Tcp, {"filters": ["t_judge"]}),
        (Tcp, {"filters": ["t_serve"], "to": "a"}),
    ):
        with pytest.raises(ValidationError):
            model.model_validate(given)


def test_listener_filters_need_a_plain_address() -> None:
    """An endpoint description accepts by itself."""
    with pytest.raises(ValidationError, match="cannot see what an endpoint description accepts"):
        Listener.model_validate(
            {"listen": "tcp:80", "tcp": {"to": "a"}, "listener_filters": ["t_judge"]}
        )


def test_a_plugin_that_does_not_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who asks for what it would offer is told of it, with the traceback's last line."""
    import twisted.plugins

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(twisted.plugins, "__path__", [*twisted.plugins.__path__])
    folder = tmp_path / "twisted" / "plugins"
    folder.mkdir(parents=True)
    (folder / "broken_for_config.py").write_text("import no_such_module_at_all\n")
    add_directory(str(tmp_path))
    with pytest.raises(Unfit) as caught:
        Chain("http").written("of_broken", Installed())
    assert caught.value.message == (
        "there is no filter 'of_broken' (twisted.plugins.broken_for_config does not import: "
        "ModuleNotFoundError: No module named 'no_such_module_at_all')"
    )


def test_what_serves() -> None:
    """The first that serves connections, of whatever a list holds."""
    assert serving(["t_judge", {"t_serve": {}, "as": "s"}]) == (1, "s")
    assert serving(Tcp.model_validate({"filters": ["t_serve"]}).filters) == (0, "t_serve")
    for nothing in (None, [], "t_serve", 5, ["t_judge"], [None], ["no_such"], [{"a": 1, "b": 2}]):
        assert serving(nothing) is None


def test_no_filter_no_search() -> None:
    """A configuration without filters imports neither plugins nor what they are written with."""
    code = (
        "import sys; from meshproxy.config import load; "
        "load('listeners: { a: { listen: \":80\", http: { routes: [{ respond: {} }] } } }', 'm'); "
        "sys.exit([m for m in sys.modules if m in "
        "('meshproxy.api', 'meshproxy.plugins', 'twisted.plugin', 'treq')] or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_dumps_are_plain() -> None:
    """The whole configuration with every form of item can be written as JSON."""
    text = web("t_bare, t_loose: { count: 1 }", "t_bare: false", "", "t_judge")
    configuration: Configuration = load(text, "m.yaml").configuration
    assert json.loads(json.dumps(configuration.model_dump(mode="json")))
