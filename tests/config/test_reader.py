"""The YAML reader: meanings, places, and bounds whatever the text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshproxy.config.reader import DEEPEST, LONGEST_TEXT, MOST_ALIASED, plain, read, read_any
from meshproxy.errors import ConfigError, Problem

#: Pieces of which YAML is made, so that chance makes texts that are nearly right.
PIECES = """a: listeners: - [ ] { } , ' " # & * &a *a | > ? : ! !!int % %YAML --- ... <<
~ null true no 1 0x1F 0o17 1e3 .inf é \\U \\x \\uD800 \\U00110000"""
ODD = [" ", "\n", "\n  ", "\t", "\r", "\0", "\ufeff", "\x85", "\u2028"]


def complaints(text: str) -> list[str]:
    """What the reader says of a text, without the file's name."""
    with pytest.raises(ConfigError) as caught:
        read(text, "f")
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'null'", "null"),
        ("12", 12),
        ("-12", -12),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-.inf", float("-inf")),
        ("'12'", "12"),
        ("2001-01-01", "2001-01-01"),
        (":80", ":80"),
        ("|\n    x\n    y\n", "x\ny\n"),
    ],
)
def test_scalars_mean_what_yaml_12_says(text: str, value: object) -> None:
    """The core schema, not YAML 1.1: `no` is text, 012 is twelve, and a date is text."""
    meaning = plain(read(f"a: {text}", "f"))["a"]
    assert (type(meaning), meaning) == (type(value), value)


def test_keys_are_text_as_written() -> None:
    """A key is never a number or a truth: `on` and `404` are what they look like."""
    text = "on: 1\n404: 2\ntrue: 3\n'': 4\n1.0: 5"
    assert list(plain(read(text, "f"))) == ["on", "404", "true", "", "1.0"]


def test_the_order_of_the_text_is_kept() -> None:
    """Routing depends on the order, so mappings keep it."""
    keys = [f"k{number * 7 % 100}" for number in range(100)]
    assert list(plain(read("\n".join(f"{key}: 1" for key in keys), "f"))) == keys


def test_every_node_knows_its_place() -> None:
    """Lines and columns count from 1, in characters, for block and flow alike."""
    root = read("a:\r\n  - é: [x, {y: z}]\r\n", "f")
    item = root.entries["a"].node.items[0]
    entry = item.entries["é"]
    assert (entry.line, entry.column) == (2, 5)
    assert [(n.line, n.column) for n in entry.node.items] == [(2, 9), (2, 12)]
    inner = entry.node.items[1].entries["y"]
    assert (inner.line, inner.column, inner.node.column) == (2, 13, 16)


def test_a_byte_order_mark_is_no_character() -> None:
    """Some editors write one, and it moves no column."""
    assert read("\ufeffa: 1", "f").entries["a"].column == 1


def test_every_repeated_key_is_reported() -> None:
    """Each repetition is found, at its place, with the line of the first."""
    text = "a: 1\nb: {c: 1, c: 2}\na: 3\nx: [{d: 1, d: 2}]\n"
    assert complaints(text) == [
        "2:11: b.c: the key 'c' is there already, in line 2",
        "3:1: a: the key 'a' is there already, in line 1",
        "4:12: x[0].d: the key 'd' is there already, in line 4",
    ]


def test_what_was_found_before_bad_yaml_is_not_lost() -> None:
    """A repeated key above a mistake of syntax is reported together with it."""
    assert complaints("a: 1\na: 2\nb: [1\n")[0].startswith("2:1: a: the key 'a'")
    assert len(complaints("a: 1\na: 2\nb: [1\n")) == 2


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "1:1: the file is empty; a configuration has at least 'listeners'"),
        ("# only a comment\n", "1:1: the file is empty"),
        ("---\n...\n", "1:1: the file is empty"),
        ("- a\n", "1:1: a configuration is a mapping, with 'listeners:' at its beginning, not a l"),
        ("hello", "1:1: a configuration is a mapping, with 'listeners:' at its beginning, not 'h"),
        ("a: 1\n---\nb: 1\n", "2:1: a second document begins here; a file has one"),
        ("%YAML 1.1\n---\na: 1\n", "2:1: only YAML 1.2 is read"),
        ("a: !!str 5", "1:4: a: YAML tags are not used here: remove '!str'"),
        ("a: !mine [1]", "1:4: a: YAML tags are not used here: remove '!mine'"),
        ("a: &x 1\nb: {<<: *x}", "2:5: b: merge keys ('<<') are not YAML 1.2; write the keys out"),
        ("[a]: 1", "1:1: a key is text, not a list or a mapping"),
        ("{[a]: 1}", "1:2: a key is text, not a list or a mapping"),
        (": 1", "1:1: a key is missing before the ':'"),
        ("&x a: 1", "1:1: a: an anchor cannot be set on a key"),
        ("b: &a c\n*a : 1", "2:1: a key that begins with '*' goes in quotes"),
        ("*: 1", "1:1: "),
        ("a: *x", "1:4: a: there is no anchor '&x'; a value that begins with '*' goes in quotes"),
        ("a: &x [*x]", "1:8: a[0]: '*x' would hold itself"),
        ("a: " + "9" * 41, "1:4: a: a number this long is not usable"),
        ('a: "\\uD800"', "1:4: a: half of a surrogate pair is not a character"),
        ("a: " + "[" * (DEEPEST + 2), f"1:{DEEPEST + 4}: a"),
    ],
)
def test_what_is_refused(text: str, complaint: str) -> None:
    """What YAML allows and a configuration does not is refused at its place."""
    assert complaints(text)[0].startswith(complaint)


def test_aliases_stand_for_what_they_name() -> None:
    """An anchor may be used to say a thing once."""
    assert plain(read("a: &x {b: 1}\nc: *x\nd: [*x]", "f")) == {
        "a": {"b": 1},
        "c": {"b": 1},
        "d": [{"b": 1}],
    }


def test_an_alias_bomb_is_refused() -> None:
    """Nine levels of nine aliases stand for hundreds of millions of values; none is made."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    (complaint,) = complaints("\n".join(lines))
    assert complaint.endswith(f"aliases stand for more than {MOST_ALIASED} values")


def test_a_deep_document_is_refused() -> None:
    """Nesting has a bound far below the one of Python's stack, in every style."""
    for text in ("[" * 100_000, "{a: " * 50_000, "- " * 50_000, "? " * 50_000):
        (complaint,) = complaints("a:\n  " + text)
        assert f"more than {DEEPEST} levels" in complaint


def test_a_document_within_the_bound_is_read() -> None:
    """A mebibyte of configuration is no trouble."""
    text = "a:\n" + "".join(f"- {'x' * 1000} {number}\n" for number in range(1100))
    assert len(text) > 1 << 20
    assert len(read(text, "f").entries["a"].node.items) == 1100


def test_a_document_over_the_bound_is_refused() -> None:
    """More than the bound is not even looked at."""
    assert complaints("#" * (LONGEST_TEXT + 1)) == ["1:1: the text is longer than 4 MiB"]


@settings(max_examples=400, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.lists(st.sampled_from([*PIECES.split(), *ODD]), max_size=30).map("".join),
        st.lists(st.sampled_from(PIECES.split()), max_size=30).map(" ".join),
    )
)
def test_any_text_is_a_node_or_a_config_error(text: str) -> None:
    """No text raises anything else, and every place is inside the text."""
    found: tuple[Problem | None, ...] = ()
    try:
        read(text, "f")
    except ConfigError as error:
        found = error.problems or (None,)
    for problem in found:
        assert problem is not None
        assert 1 <= problem.line <= len(text.splitlines()) + 1
        assert 1 <= problem.column <= len(text) + 1


values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**18), 10**18), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=8), values, min_size=1, max_size=4))
def test_json_is_read_as_what_it_is(document: dict[str, Any]) -> None:
    """YAML 1.2 holds JSON: whatever a program writes as JSON is read as the same values."""
    assert plain(read(json.dumps(document), "f")) == document


def test_any_document() -> None:
    """What is no configuration may be a list or a scalar, and says itself what empty means."""
    assert plain(read_any("- 1\n- two", "r", "")) == [1, "two"]
    assert plain(read_any("three", "r", "")) == "three"
    with pytest.raises(ConfigError, match="^r:1:1: nothing at all$"):
        read_any("# only a comment", "r", "nothing at all")
