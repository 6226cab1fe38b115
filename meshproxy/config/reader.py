"""YAML 1.2 as a tree that knows where each part of it is written.

Laws:
- Any text whatever gives a `Node` or a `ConfigError`; nothing else is raised, and time and memory
  are bounded: by `LONGEST_TEXT`, `DEEPEST`, and `MOST_ALIASED` for what aliases multiply.
- Plain scalars mean what the core schema of YAML 1.2 (section 10.3) says: `no` and `on` are text.
- Keys are text as it is written. A key that is there twice, a tag, and a merge key are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from meshproxy.config.complaint import explain
from meshproxy.config.place import Path, render
from meshproxy.config.unfit import quoted
from meshproxy.errors import ConfigError, Problem

__all__ = ["DEEPEST", "LONGEST_TEXT", "MOST_ALIASED", "Entry", "Node", "plain", "read", "read_any"]

LONGEST_TEXT = 4 << 20
"""Characters (and, in a file, bytes) of a document; more is refused."""

DEEPEST = 64
"""Mappings and lists within one another; more is refused."""

MOST_ALIASED = 100_000
"""Values that all aliases together stand for; more is refused, so that no alias is a bomb."""

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER = 40


@dataclass(slots=True)
class Entry:
    """A key of a mapping (where it is written, from 1) and its value."""

    line: int
    column: int
    node: Node


@dataclass(slots=True)
class Node:
    """A part of a document: its kind, where it begins (from 1), and what it holds.

    `scalar` and `text` are for a scalar: what it means and how it was written. `items` is for a
    list, `entries` for a mapping. `weight` is the number of nodes in it, itself included.
    """

    kind: Literal["scalar", "list", "mapping"]
    line: int
    column: int
    scalar: Any = None
    text: str = ""
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    weight: int = 1

    @property
    def is_null(self) -> bool:
        """Whether nothing is written here, or `null`."""
        return self.kind == "scalar" and self.scalar is None


def plain(node: Node) -> Any:
    """Return what `node` means as dicts, lists, text, numbers, booleans and None."""
    if node.kind == "list":
        return [plain(item) for item in node.items]
    if node.kind == "mapping":
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    return node.scalar


def read(text: str, filename: str) -> Node:
    """Return the one document of `text`, a mapping.

    Raises `ConfigError` with every repeated key, tag and the like that was found, and with the
    first place where the text is no YAML at all, since what follows it cannot be told.
    """
    reader = _Reader(text, filename)
    root = reader.document("the file is empty; a configuration has at least 'listeners'")
    if root.kind != "mapping":
        reader.stop(
            root.line,
            root.column,
            (),
            "a configuration is a mapping, with 'listeners:' at its beginning, not "
            + ("a list" if root.kind == "list" else quoted(root.text)),
        )
    return root


def read_any(text: str, filename: str, empty: str) -> Node:
    """As `read`, but whatever the document is; `empty` is what is said when there is none."""
    return _Reader(text, filename).document(empty)


class _Reader:
    """One reading of one text."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text.removeprefix("\ufeff")
        self.filename = filename
        self.problems: list[Problem] = []
        self.anchors: dict[str, Node | None] = {}
        self.aliased = 0
        self.events: Iterator[Event] = iter(())

    def document(self, empty: str) -> Node:
        if len(self.text) > LONGEST_TEXT:
            self.stop(1, 1, (), f"the text is longer than {LONGEST_TEXT >> 20} MiB")
        yaml = YAML(typ="safe", pure=True)
        self.events = yaml.parse(self.text)
        try:
            root = self.root(empty)
        except (YAMLError, OverflowError, ValueError) as error:
            # ruamel.yaml lets chr()'s OverflowError and ValueError through for "\UFFFFFFFF".
            line, column, message = explain(error, self.text)
            self.problem(line, column, (), message)
        if self.problems:
            raise ConfigError(tuple(self.problems))
        return root

    def root(self, empty: str) -> Node:
        root: Node | None = None
        for event in self.events:
            if isinstance(event, DocumentStartEvent):
                line, column = _place(event)
                if root is not None:
                    self.stop(line, column, (), "a second document begins here; a file has one")
                if event.version is not None and tuple(event.version) != (1, 2):
                    self.problem(line, column, (), "only YAML 1.2 is read; leave %YAML out")
                root = self.node(next(self.events), (), 0)
            elif not isinstance(event, (StreamStartEvent, StreamEndEvent, DocumentEndEvent)):
                line, column = _place(event)
                self.stop(line, column, (), "not valid YAML")
        if root is None or root.is_null:
            self.stop(1, 1, (), empty)
        return root

    def node(self, event: Event, path: Path, depth: int) -> Node:
        """Return the node that begins with `event`."""
        line, column = _place(event)
        if isinstance(event, AliasEvent):
            return self.alias(event, line, column, path)
        if depth > DEEPEST:
            self.stop(line, column, path, f"more than {DEEPEST} levels of nesting")
        anchor = event.anchor if isinstance(event, NodeEvent) else None
        if anchor is not None:
            self.anchors[anchor] = None  # while it is being read it cannot stand for itself
        if isinstance(event, ScalarEvent):
            node = self.scalar(event, line, column, path)
        elif isinstance(event, SequenceStartEvent):
            self.refuse_tag(event, path)
            node = Node("list", line, column)
            while not isinstance(event := next(self.events), SequenceEndEvent):
                item = self.node(event, (*path, len(node.items)), depth + 1)
                node.items.append(item)
                node.weight += item.weight
        elif isinstance(event, MappingStartEvent):
            self.refuse_tag(event, path)
            node = Node("mapping", line, column)
            while not isinstance(event := next(self.events), MappingEndEvent):
                self.entry(node, event, path, depth)
        else:
            self.stop(line, column, path, "not valid YAML")
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def entry(self, mapping: Node, event: Event, path: Path, depth: int) -> None:
        """Read one key and its value into `mapping`."""
        line, column = _place(event)
        if isinstance(event, ScalarEvent):
            key = self.scalar(event, line, column, path).text
            if event.anchor is not None:
                self.problem(line, column, (*path, key), "an anchor cannot be set on a key")
            if key == "<<" and event.implicit[0]:
                self.problem(
                    line, column, path, "merge keys ('<<') are not YAML 1.2; write the keys out"
                )
            elif key == "" and event.implicit[0]:
                self.problem(line, column, path, "a key is missing before the ':'")
        else:
            self.node(event, path, depth + 1)
            key = ""
            starred = isinstance(event, AliasEvent)
            self.problem(
                line,
                column,
                path,
                "a key that begins with '*' goes in quotes"
                if starred
                else "a key is text, not a list or a mapping",
            )
        value = self.node(next(self.events), (*path, key), depth + 1)
        earlier = mapping.entries.get(key)
        if earlier is not None and key:
            self.problem(
                line,
                column,
                (*path, key),
                f"the key {quoted(key)} is there already, in line {earlier.line}",
            )
            return
        mapping.entries[key] = Entry(line, column, value)
        mapping.weight += value.weight

    def scalar(self, event: ScalarEvent, line: int, column: int, path: Path) -> Node:
        self.refuse_tag(event, path)
        text = event.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            # JSON writes what is beyond the basic plane as a pair of escapes (RFC 8259 section 7).
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if "\ufffd" in text:
                self.problem(line, column, path, "half of a surrogate pair is not a character")
        meaning: Any = text
        if event.implicit[0]:
            if text in _NULL:
                meaning = None
            elif text in _TRUE or text in _FALSE:
                meaning = text in _TRUE
            elif _INT.fullmatch(text) or _FLOAT.fullmatch(text):
                if len(text) > _LONGEST_NUMBER:
                    self.problem(line, column, path, "a number this long is not usable")
                    meaning = 0
                else:
                    meaning = int(text, _base(text)) if _INT.fullmatch(text) else float(text)
            elif _NOT_FINITE.fullmatch(text):
                meaning = float(text.replace(".", ""))
        return Node("scalar", line, column, meaning, text)

    def alias(self, event: AliasEvent, line: int, column: int, path: Path) -> Node:
        name = event.anchor
        if name not in self.anchors:
            self.stop(
                line,
                column,
                path,
                f"there is no anchor '&{name[:64]}'; a value that begins with '*' goes in quotes",
            )
        node = self.anchors[name]
        if node is None:
            self.stop(line, column, path, f"'*{name[:64]}' would hold itself")
        self.aliased += node.weight
        if self.aliased > MOST_ALIASED:
            self.stop(line, column, path, f"aliases stand for more than {MOST_ALIASED} values")
        return node

    def refuse_tag(
        self, event: ScalarEvent | SequenceStartEvent | MappingStartEvent, path: Path
    ) -> None:
        if event.tag is not None:
            line, column = _place(event)
            shown = "!" + str(event.tag).rpartition(":")[2].removeprefix("!")
            self.problem(line, column, path, f"YAML tags are not used here: remove {quoted(shown)}")

    def problem(self, line: int, column: int, path: Path, message: str) -> None:
        self.problems.append(Problem("error", self.filename, line, column, render(path), message))

    def stop(self, line: int, column: int, path: Path, message: str) -> NoReturn:
        """Raise `ConfigError` with what was found so far and this."""
        self.problem(line, column, path, message)
        raise ConfigError(tuple(self.problems))


def _base(text: str) -> int:
    return {"0x": 16, "0o": 8}.get(text[:2], 10)


def _place(event: Event) -> tuple[int, int]:
    """Return the line and column of an event, from 1."""
    mark = event.start_mark
    return mark.line + 1, mark.column + 1
