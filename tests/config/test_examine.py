"""What the keys of a document show, and where things are."""

from __future__ import annotations

from meshproxy.config.examine import examine, locate
from meshproxy.config.model import Configuration
from meshproxy.config.reader import read
from tests.config.texts import SMALL, lines_of


def test_data_holds_only_what_may_be_validated() -> None:
    """What was reported is left out, so that validation does not report it again."""
    root = read(SMALL + "resources: []\nunknown: 1\nadmin:\n", "f")
    examined = examine(root, Configuration, "f")
    assert set(examined.data) == {"listeners", "clusters"}
    assert [str(problem) for problem in examined.problems] == [
        "f:9:1: resources: 'resources' is not supported by this version",
        "f:10:1: unknown: unknown key 'unknown'",
        "f:11:1: admin: 'admin' has no value; give it one or remove it",
    ]


def test_references_to_clusters_are_collected() -> None:
    """Every `to` is found, in http and in tcp, with its way."""
    examined = examine(read(SMALL, "f"), Configuration, "f")
    assert [path for path, _ in examined.references] == [
        ("listeners", "web", "http", "routes", 0, "to")
    ]


def test_places() -> None:
    """Values, keys, items, and the last part that exists of a way that does not."""
    root = read(SMALL, "f")
    assert locate(root, ("listeners", "web", "listen")) == (
        3,
        13,
        ("listeners", "web", "listen"),
    )
    assert locate(root, ("listeners", "web", "listen"), key=True)[:2] == (3, 5)
    assert locate(root, ("listeners", "web", "http", "routes", 0))[:2] == (6, 11)
    endpoints = ("clusters", "api", "endpoints", 0)
    assert locate(root, (*endpoints, "address")) == (8, 22, endpoints)
    assert locate(root, ("listeners", "db", "tcp")) == (2, 3, ("listeners",))
    assert locate(root, ()) == (1, 1, ())


def test_an_empty_value_is_shown_at_its_key() -> None:
    """There is nothing to look at where nothing is written."""
    root = read("a:\n  b:\n", "f")
    assert locate(root, ("a", "b"))[:2] == (2, 3)


def test_everything_in_a_part_to_come_is_left_alone() -> None:
    """What is inside a key that is not built yet is not judged, nor is what it replaces."""
    text = SMALL + "discovery: { listeners: 5, unknown: [~] }\n"
    assert lines_of(text) == ["9:1: discovery: 'discovery' is not supported by this version"]


def test_an_alias_is_examined_where_it_stands() -> None:
    """A part that is used twice is wrong in both ways, at the place where it is written."""
    text = """\
listeners:
  a: &a { listen: ':0', tcp: { to: b, idle: 5s } }
  c: *a
clusters: { b: { endpoints: ['127.0.0.1:1'] } }
"""
    assert [line.split(": ")[:2] for line in lines_of(text)] == [
        ["2:39", "listeners.a.tcp.idle"],
        ["2:39", "listeners.c.tcp.idle"],
    ]


def test_names_known_from_elsewhere_are_translated() -> None:
    """A key that another proxy or an older version has is told by its name here."""
    text = SMALL.replace("api: {", "api: { outlier_detection: {}, pool: { max_pending: 5 },")
    assert lines_of(text) == [
        (
            "8:10: clusters.api.outlier_detection: unknown key 'outlier_detection'; that is "
            "'circuit_breaker' here"
        ),
        (
            "8:41: clusters.api.pool.max_pending: unknown key 'max_pending'; that is "
            "'limits.pending' of the cluster here"
        ),
    ]


def test_a_shorthand_names_its_cluster_too() -> None:
    """A mirror's cluster alone is a reference, as one in a mapping is; other scalars are none."""
    for mirror in ("shadow", "{ to: shadow }"):
        text = SMALL.replace("to: api", f"{{ to: api, mirror: {mirror} }}")
        examined = examine(read(text, "f"), Configuration, "f")
        assert [node.scalar for _, node in examined.references] == ["api", "shadow"]
    examined = examine(read(SMALL.replace("- to: api", "- api"), "f"), Configuration, "f")
    assert examined.references == []


def test_one_item_in_place_of_a_list() -> None:
    """Where one item will do, it is examined as an item; elsewhere a mapping is no list."""
    text = SMALL.replace("api: {", "api: { balance: maglev, hash_by: { heder: a },")
    assert lines_of(text) == [
        "8:38: clusters.api.hash_by.heder: unknown key 'heder'; did you mean 'header'?"
    ]
    text = SMALL.replace("[127.0.0.1:9001]", "{ address: '127.0.0.1:1' }")
    assert [line.partition(": ")[2] for line in lines_of(text)] == [
        "clusters.api.endpoints: a list is expected, not a mapping"
    ]
