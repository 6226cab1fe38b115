"""Rosters: the endpoints of a cluster as a text of their own, from a file or from a service.

Laws:
- Any text whatever gives endpoints or a `ConfigError` that says where; an empty text is an error,
  since a write that was cut short must not empty a cluster, and `[]` is not.
- An endpoint is what it is in `endpoints` of a cluster, but an address there is a number.
- JSON is read by the standard library and looked at closely only where something is wrong, so that
  the largest costs a second at most. YAML costs ten times that: who reads what strangers write has
  it refused (`yaml=False`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from meshproxy.config.cluster import Endpoint, EndpointItem
from meshproxy.config.examine import examine, locate
from meshproxy.config.place import Path, render
from meshproxy.config.problems import report
from meshproxy.config.reader import LONGEST_TEXT, Node, read_any
from meshproxy.config.unfit import closest, quoted
from meshproxy.errors import ConfigError, Problem

__all__ = ["LONGEST_ROSTER", "MOST_ENDPOINTS", "decode_roster", "read_roster"]

MOST_ENDPOINTS = 10_000
"""Endpoints of a roster; more is refused."""

LONGEST_ROSTER = LONGEST_TEXT
"""Characters (and bytes) of a roster; more is refused."""

_MOST_PROBLEMS = 20
_LONGEST_ITEM = 4096
_KEY = "endpoints"
_EMPTY = "the text is empty; where there are no endpoints it says []"
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

_ITEM: TypeAdapter[Endpoint] = TypeAdapter(EndpointItem)


@dataclass(frozen=True, slots=True)
class _Item:
    """An endpoint as it is written: what it says, and where it begins (from 1)."""

    data: Any
    line: int
    column: int
    node: Node | None = None
    text: str = ""


class _NotPlain(Exception):
    """Data in which something may be wrong that only a look at the text can judge."""


def decode_roster(content: bytes, filename: str) -> str:
    """Return the text that `content` (UTF-8) is. Raises `ConfigError`."""
    if len(content) > LONGEST_ROSTER:
        _stop(filename, 1, 1, f"the text is longer than {LONGEST_ROSTER >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        _stop(filename, line, column, "a roster is written in UTF-8, and this byte is not")


def read_roster(text: str, filename: str, *, yaml: bool = True) -> list[Endpoint]:
    """Return the endpoints that `text` lists, in its order; `filename` is only for messages.

    The text is YAML or JSON: a list of endpoints, or a mapping with that under `endpoints`. Raises
    `ConfigError`, with at most 20 problems. Without `yaml` the text must be JSON.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > LONGEST_ROSTER:
        _stop(filename, 1, 1, f"the text is longer than {LONGEST_ROSTER >> 20} MiB")
    prefix: Path = ()
    try:
        data = json.loads(text)
    except RecursionError:
        _stop(filename, 1, 1, "too many levels of nesting")
    except ValueError as error:
        if not yaml:
            if not text.strip():
                _stop(filename, 1, 1, _EMPTY)
            if isinstance(error, json.JSONDecodeError):
                _stop(filename, error.lineno, error.colno, f"not valid JSON: {error.msg}")
            _stop(filename, 1, 1, "a number this long is not usable")
        root = read_any(text, filename, _EMPTY)
        if root.kind == "mapping":
            prefix = (_KEY,)
        items = _from_tree(root, filename)
    else:
        if isinstance(data, dict):
            prefix = (_KEY,)
        items = _from_json(text, filename)
    return _endpoints(items, filename, prefix)


def _endpoints(items: list[_Item], filename: str, prefix: Path) -> list[Endpoint]:
    """Return the endpoints that `items` are. Raises `ConfigError`."""
    if len(items) > MOST_ENDPOINTS:
        extra = items[MOST_ENDPOINTS]
        message = f"more than {MOST_ENDPOINTS} endpoints"
        _stop(filename, extra.line, extra.column, message, (*prefix, MOST_ENDPOINTS))
    endpoints = []
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    for number, item in enumerate(items):
        found = _endpoint(item, filename)
        if isinstance(found, Endpoint):
            assert found.address is not None
            address = found.address.text
            if address in lines:
                message = f"the address {address} is there already, in line {lines[address]}"
                found = [_at(item, filename, ("address",), message)]
            else:
                lines[address] = item.line
                endpoints.append(found)
        if isinstance(found, list):
            problems += [_under(problem, (*prefix, number)) for problem in found]
            if len(problems) >= _MOST_PROBLEMS:
                break
    if problems:
        ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.line, p.column))
        raise ConfigError(tuple(ordered[:_MOST_PROBLEMS]))
    return endpoints


def _endpoint(item: _Item, filename: str) -> Endpoint | list[Problem]:
    """Return the endpoint that `item` is, or what is wrong with it."""
    try:
        if item.node is not None or _SURROGATE.search(item.text):
            # A tree says more than the data: a key without a value; half of a character.
            raise _NotPlain
        _refuse_nulls(item.data)
        endpoint = _ITEM.validate_python(item.data)
    except (ValidationError, _NotPlain):
        return _examined(item, filename)
    return _numeric(endpoint, item, filename)


def _examined(item: _Item, filename: str) -> Endpoint | list[Problem]:
    """As `_endpoint`, with the place of everything."""
    if item.node is None and len(item.text) > _LONGEST_ITEM:
        return [_at(item, filename, (), f"an endpoint of more than {_LONGEST_ITEM} characters")]
    try:
        node = _tree(item, filename)
    except ConfigError as error:
        return [_moved(problem, item) for problem in error.problems]
    examined = examine(node, Endpoint, filename)
    endpoint = None
    try:
        endpoint = _ITEM.validate_python(examined.data, context={"faults_apart": True})
    except ValidationError as error:
        report(error, node, examined)
    if examined.problems or endpoint is None:
        if item.node is not None:
            return examined.problems
        return [_moved(problem, item) for problem in examined.problems]
    return _numeric(endpoint, item, filename)


def _numeric(endpoint: Endpoint, item: _Item, filename: str) -> Endpoint | list[Problem]:
    """Return the endpoint, unless something would have to be looked up."""
    if endpoint.srv is not None:
        message = "SRV names are for the 'endpoints' of a cluster; here an endpoint has an address"
        return [_at(item, filename, ("srv",), message)]
    if endpoint.address is not None and endpoint.address.family == 0:
        host = quoted(endpoint.address.host)
        message = f"an IP address is needed here, and {host} is a name, which is not looked up"
        return [_at(item, filename, ("address",), message)]
    return endpoint


def _tree(item: _Item, filename: str) -> Node:
    if item.node is not None:
        return item.node
    return read_any(item.text, filename, "nothing is written here")


def _at(item: _Item, filename: str, path: Path, message: str) -> Problem:
    """Return a problem at `path` of an item."""
    line, column = item.line, item.column
    there: Path = ()
    if item.node is not None:
        line, column, there = locate(item.node, path)
    elif len(item.text) <= _LONGEST_ITEM:
        line, column, there = locate(_tree(item, filename), path)
        return _moved(Problem("error", filename, line, column, render(there), message), item)
    return Problem("error", filename, line, column, render(there), message)


def _moved(problem: Problem, item: _Item) -> Problem:
    """Return `problem`, found in the text of `item` alone, as one of the whole text."""
    column = problem.column + item.column - 1 if problem.line == 1 else problem.column
    return replace(problem, line=problem.line + item.line - 1, column=column)


def _under(problem: Problem, prefix: Path) -> Problem:
    """Return `problem`, whose path begins in an item, with the item's own path before that."""
    begin = render(prefix)
    dot = "." if problem.path and not problem.path.startswith("[") else ""
    return replace(problem, path=f"{begin}{dot}{problem.path}")


def _refuse_nulls(data: Any) -> None:
    if isinstance(data, dict):
        for value in data.values():
            if value is None:
                raise _NotPlain
            _refuse_nulls(value)


def _from_tree(root: Node, filename: str) -> list[_Item]:
    """Return the items of a document. Raises `ConfigError`."""
    node = root
    if root.kind == "mapping":
        for key, entry in root.entries.items():
            if key != _KEY:
                _unknown(filename, entry.line, entry.column, key)
        found = root.entries.get(_KEY)
        if found is None:
            _stop(filename, root.line, root.column, f"'{_KEY}' is missing")
        node = found.node
        if node.is_null:
            _stop(filename, found.line, found.column, f"'{_KEY}' has no value", (_KEY,))
    if node.kind != "list":
        _no_list(filename, node.line, node.column, (_KEY,) if node is not root else ())
    return [_Item(None, item.line, item.column, item) for item in node.items]


def _from_json(text: str, filename: str) -> list[_Item]:
    """Return the items of valid JSON. Raises `ConfigError`."""
    places = _Places(text)
    start = _skip(text, 0)
    path: Path = ()
    if text[start] == "{":
        listed = None
        for key, at, value in _members(text, start):
            if key != _KEY:
                _unknown(filename, *places.of(at), key)
            if listed is not None:
                _stop(filename, *places.of(at), f"the key '{_KEY}' is there already", (_KEY,))
            listed = value
        if listed is None:
            _stop(filename, *places.of(start), f"'{_KEY}' is missing")
        start, path = listed, (_KEY,)
    if text[start] != "[":
        _no_list(filename, *places.of(start), path)
    items = []
    for begin, end, data in _elements(text, start):
        line, column = places.of(begin)
        items.append(_Item(data, line, column, None, text[begin:end]))
        if len(items) > MOST_ENDPOINTS:
            break
    return items


class _Places:
    """Lines and columns of ascending offsets, counted once along the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1

    def of(self, offset: int) -> tuple[int, int]:
        self._line += self._text.count("\n", self._at, offset)
        self._at = offset
        return self._line, offset - self._text.rfind("\n", 0, offset)


def _members(text: str, start: int) -> Iterator[tuple[str, int, int]]:
    """Yield the keys of the JSON object that begins at `start`, their offset and the value's."""
    decoder = json.JSONDecoder()
    at = _skip(text, start + 1)
    while text[at] != "}":
        key, end = decoder.raw_decode(text, at)
        value = _skip(text, _skip(text, end) + 1)
        yield key, at, value
        _, end = decoder.raw_decode(text, value)
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _elements(text: str, start: int) -> Iterator[tuple[int, int, Any]]:
    """Yield where each element of the JSON array at `start` begins and ends, and its value."""
    decoder = json.JSONDecoder(object_pairs_hook=_once)
    at = _skip(text, start + 1)
    while text[at] != "]":
        value, end = decoder.raw_decode(text, at)
        yield at, end, value
        at = _skip(text, end)
        if text[at] == ",":
            at = _skip(text, at + 1)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object; one with a key twice gets a null, so that it is looked at more closely."""
    found = dict(pairs)
    if len(found) != len(pairs):
        found[""] = None
    return found


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _unknown(filename: str, line: int, column: int, key: str) -> NoReturn:
    message = f"unknown key {quoted(key)}; a roster is a list, or a mapping with '{_KEY}' alone"
    _stop(filename, line, column, message, (key,), closest(key, [_KEY]))


def _no_list(filename: str, line: int, column: int, path: Path) -> NoReturn:
    _stop(filename, line, column, "a list of endpoints is expected", path)


def _stop(
    filename: str,
    line: int,
    column: int,
    message: str,
    path: Path = (),
    suggestion: str | None = None,
) -> NoReturn:
    problem = Problem("error", filename, line, column, render(path), message, suggestion)
    raise ConfigError((problem,)) from None
