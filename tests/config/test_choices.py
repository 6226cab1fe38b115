"""Plugins that are no filters in a configuration: what may be written, and what is said of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from meshproxy.config import Configuration, FilterItem, load
from meshproxy.config.filters import as_name
from meshproxy.config.schema import schema
from meshproxy.plugins import add_directory
from tests.config.texts import DROPINS, lines_of

E = "endpoints: [127.0.0.1:9001]"
WORDS = "round_robin, random, least_request, ring_hash or maglev is expected"


@pytest.fixture(autouse=True)
def searched() -> None:
    """The plugins of the tests are installed."""
    add_directory(DROPINS)
    return


def text(cluster: str = E, log: str = "path: '-'") -> str:
    """A configuration whose line 4 is the cluster's inside, line 2 an access log."""
    return (
        "listeners:\n"
        f"  web: {{ listen: ':80', tcp: {{ to: api, access_log: {log} }} }}\n"
        "clusters:\n"
        f"  api: {{ {cluster} }}\n"
    )


def cluster_of(inside: str) -> Any:
    """The cluster of a text."""
    return load(text(inside, "{ path: '-' }"), "m.yaml").configuration.clusters["api"]


def test_a_word_stays_a_word_and_searches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The words of `balance` are no plugins, and nobody is asked for any."""
    monkeypatch.setattr("meshproxy.config.filters.Installed.plugins", None)
    assert cluster_of(E).balance == "round_robin"
    assert cluster_of(f"{E}, balance: maglev").balance == "maglev"


def test_what_a_plugin_becomes() -> None:
    """A name alone, or with options, is an item of its kind."""
    chosen = cluster_of(
        "balance: t_last, discovery: { plugin: { t_listed: 1.2.3.4:5, as: l } }, "
        "health_check: { plugin: { t_port: { ports: [5] } } }".replace("1.2.3.4:5", "['1.2.3.4:5']")
    )
    items = [chosen.balance, chosen.discovery.plugin, chosen.health_check.plugin]
    assert [type(item) for item in items] == [FilterItem] * 3
    assert [(item.name, item.label, item.kind) for item in items] == [
        ("t_last", "t_last", "balancer"),
        ("t_listed", "l", "discovery"),
        ("t_port", "t_port", "health_check"),
    ]
    assert items[1].options.endpoints == ["1.2.3.4:5"]
    assert items[2].options.ports == [5]
    assert hash(items[1]) == hash(items[1])


def test_a_lone_access_log_and_several() -> None:
    """One mapping is a list of one; a list may mix files and plugins."""
    one = load(text(log="{ plugin: t_remember }"), "m.yaml").configuration.listeners["web"].tcp
    two = "[{ plugin: t_remember }, { path: '-' }, { plugin: { t_remember: {}, as: b } }]"
    several = load(text(log=two), "m.yaml").configuration.listeners["web"].tcp
    assert one is not None
    assert several is not None
    assert [log.plugin and log.plugin.label for log in one.access_log] == ["t_remember"]
    labels = [log.plugin and log.plugin.label for log in several.access_log]
    assert labels == ["t_remember", None, "b"]


@pytest.mark.parametrize(
    ("inside", "problems"),
    [
        (f"{E}, balance: t_last", []),
        (f"{E}, balance: {{ t_last: {{}} }}", []),
        (
            f"{E}, balance: rndom",
            [
                (
                    f"4:48: clusters.api.balance: {WORDS}, or a balancer that is installed, "
                    "not the text 'rndom'; did you mean 'random'?"
                )
            ],
        ),
        (
            f"{E}, balance: t_lst",
            [
                (
                    f"4:48: clusters.api.balance: {WORDS}, or a balancer that is installed, "
                    "not the text 't_lst'; did you mean 't_last'?"
                )
            ],
        ),
        (
            f"{E}, balance: t_port",
            [
                (
                    f"4:48: clusters.api.balance: {WORDS}, or a balancer that is installed, not "
                    "the text 't_port'; 't_port' is a health check, not a balancer"
                )
            ],
        ),
        (
            f"{E}, balance: [t_last]",
            [
                (
                    f"4:48: clusters.api.balance: {WORDS}, the name of a balancer, or "
                    "'NAME: {options}', not a list"
                )
            ],
        ),
        (
            f"{E}, balance: {{ t_last: {{ wrd: a }} }}",
            ["4:60: clusters.api.balance.t_last.wrd: unknown key 'wrd'; did you mean 'word'?"],
        ),
        (
            f"{E}, balance: {{ t_last: {{ word: 5 }} }}",
            [
                (
                    "4:66: clusters.api.balance.t_last.word: text is expected, not the number 5; "
                    'put it in quotes: "5"'
                )
            ],
        ),
        (
            f"{E}, balance: {{ t_last: {{ token: 5555 }} }}",
            ["4:67: clusters.api.balance.t_last.token: text is expected, not the text '***'"],
        ),
        (
            f"{E}, balance: {{ t_last: {{}}, random: {{}} }}",
            [
                (
                    "4:62: clusters.api.balance.random: 'random' cannot be here too: one balancer "
                    "is chosen"
                )
            ],
        ),
        (
            f"{E}, balance: {{ t_last: false }}",
            ["4:50: clusters.api.balance.t_last: 't_last' has options or none; false is for f"],
        ),
        (
            f"{E}, balance: t_last, hash_by: source_ip",
            [
                (
                    "4:56: clusters.api.hash_by: 'hash_by' does nothing beside 'balance: t_last'; "
                    "it needs ring_hash or maglev"
                )
            ],
        ),
        (
            "discovery: { plugin: t_listed }",
            ["4:31: clusters.api.discovery.plugin.t_listed.endpoints: 'endpoints' is missing"],
        ),
        (
            "discovery: { plugin: { t_listed: { endpoints: [] } }, interval: 1s, timeout: 2s }",
            [
                "4:64: clusters.api.discovery.interval: 'interval' does nothing beside 'plugin'",
                "4:78: clusters.api.discovery.timeout: 'timeout' does nothing beside 'plugin'",
            ],
        ),
        (
            f"{E}, health_check: {{ plugin: t_prt }}",
            [
                (
                    "4:63: clusters.api.health_check.plugin: there is no health check 't_prt'; did "
                    "you mean 't_port'?"
                )
            ],
        ),
        (
            f"{E}, health_check: {{ plugin: t_bare, tcp: true }}",
            [
                (
                    "4:63: clusters.api.health_check.plugin: 't_bare' is a filter for http, not a "
                    "health check"
                ),
                "4:63: clusters.api.health_check.plugin: 'tcp' is there already, and only one",
            ],
        ),
        (
            f"{E}, health_check: {{ plugin: t_port, port: 5 }}",
            [
                (
                    "4:71: clusters.api.health_check.port: 'port' does nothing beside 'plugin', "
                    "which asks where it will"
                )
            ],
        ),
    ],
)
def test_what_is_said_of_a_cluster(inside: str, problems: list[str]) -> None:
    """Every mistake at its place."""
    found = lines_of(text(inside, "{ path: '-' }"))
    assert len(found) == len(problems), found
    for line, expected in zip(found, problems, strict=True):
        assert line.startswith(expected)


@pytest.mark.parametrize(
    ("log", "problems"),
    [
        (
            "{ plugin: t_remembr }",
            [
                (
                    "2:63: listeners.web.tcp.access_log.plugin: there is no access log "
                    "'t_remembr'; did you mean 't_remember'?"
                )
            ],
        ),
        (
            "{ plugin: t_last }",
            [
                (
                    "2:63: listeners.web.tcp.access_log.plugin: 't_last' is a balancer, not an "
                    "access log"
                )
            ],
        ),
        (
            "{ plugin: { t_remember: { fail: maybe } } }",
            ["2:85: listeners.web.tcp.access_log.plugin.t_remember.fail: true or false is exp"],
        ),
        (
            "[{ path: '-' }, { plugin: { t_remember: { fial: true } } }]",
            ["2:95: listeners.web.tcp.access_log[1].plugin.t_remember.fial: unknown key 'fial'"],
        ),
        (
            "{ plugin: t_remember, format: json }",
            ["2:75: listeners.web.tcp.access_log.format: 'format' does nothing beside 'plugin'"],
        ),
        (
            "[{ plugin: t_remember }, { plugin: t_remember }]",
            [
                (
                    "2:88: listeners.web.tcp.access_log[1].plugin: 't_remember' is there already; "
                    "give one a name with 'as'"
                )
            ],
        ),
        ("[]", ["2:53: listeners.web.tcp.access_log: this cannot be empty"]),
    ],
)
def test_what_is_said_of_an_access_log(log: str, problems: list[str]) -> None:
    """Every mistake at its place, in a mapping and in a list."""
    found = lines_of(text(E, log))
    assert len(found) == len(problems), found
    for line, expected in zip(found, problems, strict=True):
        assert line.startswith(expected)


def test_a_choice_is_dumped_as_it_is_written() -> None:
    """Words and plugins can be read again; secrets are masked."""
    inside = f"{E}, balance: {{ t_last: {{ word: b, token: sesame }} }}"
    dumped = load(text(inside, "{ plugin: t_remember }"), "m.yaml").configuration.model_dump(
        mode="json", exclude_unset=True
    )
    assert dumped["clusters"]["api"]["balance"] == {"t_last": {"word": "b", "token": "***"}}
    assert dumped["listeners"]["web"]["tcp"]["access_log"] == [{"plugin": "t_remember"}]
    again = Configuration.model_validate(json.loads(json.dumps(dumped)))
    assert as_name(again.clusters["api"].balance) == "t_last"


def test_the_schema_has_the_plugins() -> None:
    """An editor is told the words, and every plugin of the kind with its options."""
    definitions = schema()["$defs"]
    balance = definitions["Cluster"]["properties"]["balance"]
    words, *plugins = balance["anyOf"]
    assert words["enum"][0] == "round_robin"
    assert [form["title"] for form in plugins] == ["t_last", "t_last"]
    assert plugins[0]["const"] == "t_last"
    for section, name in (
        ("Discovery", "t_listed"),
        ("HealthCheck", "t_port"),
        ("AccessLog", "t_remember"),
    ):
        forms = definitions[section]["properties"]["plugin"]["anyOf"]
        assert name in {form["title"] for form in forms}
