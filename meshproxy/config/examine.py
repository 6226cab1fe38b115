"""What can be told of a document by its keys alone, whatever its values are.

Laws:
- Every unknown key, every key of the vocabulary that is not built yet, every key without a value
  and every fault between keys is found in one walk, however much else is wrong.
- What was reported here is left out of the data that is handed on, so that nothing is said twice.
- Filters and other plugins are found here, so that their options are examined like any section.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from meshproxy.config.filters import Chain, Choice, Installed, Written
from meshproxy.config.place import Path, render
from meshproxy.config.reader import Node, plain
from meshproxy.config.section import Section
from meshproxy.config.unfit import LATER, Unfit, closest, quoted
from meshproxy.errors import Problem

__all__ = ["Examined", "examine", "locate"]


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a value is made of: a section, a plugin, or a list or mapping of what holds those."""

    section: type[Section] | None = None
    items: _Shape | None = None
    values: _Shape | None = None
    chain: Chain | None = None


@dataclass(slots=True)
class Examined:
    """The outcome: `data` for validation, and what was found on the way.

    `references` are the nodes that name clusters. `excused` are places whose absence from `data`
    is explained by a problem already.
    """

    filename: str
    data: Any = None
    problems: list[Problem] = field(default_factory=list)
    references: list[tuple[Path, Node]] = field(default_factory=list)
    excused: set[Path] = field(default_factory=set)
    installed: Installed = field(default_factory=Installed)

    def problem(
        self, line: int, column: int, path: Path, message: str, suggestion: str | None = None
    ) -> None:
        """Add an error."""
        self.problems.append(
            Problem("error", self.filename, line, column, render(path), message, suggestion)
        )


def examine(root: Node, section: type[Section], filename: str) -> Examined:
    """Return what `root`, which is to become a `section`, shows by its keys."""
    examined = Examined(filename)
    examined.data = _section(examined, root, section, (), root)
    return examined


def locate(root: Node, path: Path, *, key: bool = False) -> tuple[int, int, Path]:
    """Return the line, column and the existing part of `path`.

    For an entry of a mapping that is its value, or with `key` (and where the value is nothing)
    the key. Steps that are not in the document (a shorthand has none) are left out.
    """
    node = root
    line, column = root.line, root.column
    there: Path = ()
    for step in path:
        if node.kind == "list" and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            line, column = node.line, node.column
        elif step == 0 and node.kind == "mapping":
            continue  # one item in place of a list of one
        elif node.kind == "mapping" and isinstance(step, str) and step in node.entries:
            entry = node.entries[step]
            node = entry.node
            at_key = (key and len(there) + 1 == len(path)) or node.is_null
            line, column = (entry.line, entry.column) if at_key else (node.line, node.column)
        else:
            break
        there = (*there, step)
    return line, column, there


def _section(examined: Examined, node: Node, section: type[Section], path: Path, root: Node) -> Any:
    """Return the data of one section, and report what its keys show."""
    if node.kind != "mapping":
        if section.shorthand in section.references:
            examined.references.append((path, node))
        return plain(node)
    data: dict[str, Any] = {}
    excused: set[str] = set()
    later = False
    for key, entry in node.entries.items():
        here = (*path, key)
        if key in section.later:
            examined.problem(entry.line, entry.column, here, f"'{key}' is {LATER}")
            later = True
        elif key not in section.model_fields:
            message, suggestion, meant = _unknown(section, key)
            examined.problem(entry.line, entry.column, here, message, suggestion)
            excused.add(meant)
        elif entry.node.is_null:
            examined.problem(
                entry.line, entry.column, here, f"'{key}' has no value; give it one or remove it"
            )
            excused.add(key)
        elif section.is_later(key, value := plain(entry.node)):
            line, column = entry.node.line, entry.node.column
            examined.problem(line, column, here, f"{quoted(value)} is {LATER}")
        else:
            if key in section.references:
                examined.references.append((here, entry.node))
            shape = _shapes(section)[key]
            if shape is not None and key in section.one_or_several and entry.node.kind != "list":
                shape = shape.items  # the one item alone, in place of the list
            data[key] = _value(examined, entry.node, shape, here, root)
    required = {name for name, info in section.model_fields.items() if info.is_required()}
    examined.excused |= {(*path, name) for name in (required if later else excused)}
    for fault in section.faults(data):
        if not fault.at and (later or (excused & {*section.exactly_one})):
            continue
        absent = fault.at[0] if fault.at and fault.at[0] not in data else None
        if absent in section.model_fields and (later or absent in excused):
            continue
        key_only = len(fault.at) == 1 and fault.message.startswith(f"'{fault.at[0]}' does nothing")
        line, column, _ = locate(root, (*path, *fault.at), key=key_only)
        if not fault.at or absent is not None:
            line, column, _ = locate(root, path, key=True)
        examined.problem(line, column, (*path, *fault.at), fault.message, fault.suggestion)
    return data


def _value(examined: Examined, node: Node, shape: _Shape | None, path: Path, root: Node) -> Any:
    """Return the data of a value that may hold sections."""
    if shape is not None:
        if shape.section is not None:
            return _section(examined, node, shape.section, path, root)
        if isinstance(shape.chain, Choice):
            raw = plain(node)
            if shape.chain.is_word(raw):
                return raw
            return _plugin(examined, node, shape.chain, path, root)
        if shape.items is not None and node.kind == "list":
            if shape.items.chain is not None:
                return _filters(examined, node, shape.items.chain, path, root)
            return [
                _value(examined, item, shape.items, (*path, index), root)
                for index, item in enumerate(node.items)
            ]
        if shape.values is not None and node.kind == "mapping":
            return {
                key: _value(examined, entry.node, shape.values, (*path, key), root)
                for key, entry in node.entries.items()
            }
    return plain(node)


def _filters(examined: Examined, node: Node, chain: Chain, path: Path, root: Node) -> list[Written]:
    """Return the items of a list of filters; one that was reported is there, but switched off."""
    items: list[Written] = []
    labels: dict[str, int] = {}
    for index, item in enumerate(node.items):
        here = (*path, index)
        written = _plugin(examined, item, chain, here, root)
        items.append(written)
        if not written.label:
            continue
        earlier = labels.setdefault(written.label, index)
        if earlier != index:
            message = f"'{written.label}' is there already; give one a name with 'as'"
            examined.problem(item.line, item.column, here, message)
    return items


def _plugin(examined: Examined, item: Node, chain: Chain, here: Path, root: Node) -> Written:
    """Return the plugin that `item` names, its options examined; nameless if it was reported."""
    try:
        written = chain.written(plain(item), examined.installed)
    except Unfit as error:
        key_only = item.kind == "mapping" and len(error.at) == 1 and error.at[0] != "as"
        line, column, _ = locate(root, (*here, *error.at), key=key_only)
        examined.problem(line, column, (*here, *error.at), error.message, error.suggestion)
        return Written("", "", off=True)
    model = written.model
    if model is not None and issubclass(model, Section):
        at = (*here, written.name)
        entry = item.entries.get(written.name)
        options = Node("mapping", item.line, item.column) if entry is None else entry.node
        if options.kind == "mapping":
            return replace(written, data=_section(examined, options, model, at, root))
        if isinstance(written.data, dict):
            for fault in model.faults(written.data):
                line, column, _ = locate(root, (*at, *fault.at))
                examined.problem(line, column, (*at, *fault.at), fault.message, fault.suggestion)
    return written


@cache
def _shapes(section: type[Section]) -> dict[str, _Shape | None]:
    """Return where the sections are in each field of `section`."""
    return {name: _of_field(info) for name, info in section.model_fields.items()}


def _of_field(info: FieldInfo) -> _Shape | None:
    # What a whole field is annotated with, pydantic takes out of its type.
    chain = next((entry for entry in info.metadata if isinstance(entry, Chain)), None)
    return _shape(info.annotation) if chain is None else _Shape(chain=chain)


def _shape(annotation: Any) -> _Shape | None:
    """Return where the sections are in a type, or None when it has none."""
    origin = get_origin(annotation)
    if origin is Annotated:
        held, *metadata = get_args(annotation)
        chain = next((entry for entry in metadata if isinstance(entry, Chain)), None)
        return _shape(held) if chain is None else _Shape(chain=chain)
    if origin in (Union, types.UnionType):
        found = [_shape(part) for part in get_args(annotation)]
        return next((shape for shape in found if shape is not None), None)
    if origin is list:
        inner = _shape(get_args(annotation)[0])
        return None if inner is None else _Shape(items=inner)
    if origin is dict:
        inner = _shape(get_args(annotation)[1])
        return None if inner is None else _Shape(values=inner)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return _Shape(section=annotation)
    return None


def _unknown(section: type[Section], key: str) -> tuple[str, str | None, str]:
    """Return the message, the suggestion and the key that was meant, for an unknown key."""
    message = f"unknown key {quoted(key)}"
    if key in section.elsewhere:
        return f"{message}; that is {section.elsewhere[key]} here", None, ""
    for name, inner, several in _inner_sections(section):
        if key in inner.model_fields or key in inner.later:
            place = f"an entry of '{name}'" if several else f"'{name}'"
            return f"{message} here; it belongs in {place}", None, name
    suggestion = closest(key, section.model_fields)
    return message, suggestion, suggestion or ""


def _inner_sections(section: type[Section]) -> Iterator[tuple[str, type[Section], bool]]:
    """Yield the sections right inside this one, and whether there can be several."""
    for name, shape in _shapes(section).items():
        if shape is not None:
            entry = shape.items or shape.values
            found = shape.section or (entry.section if entry is not None else None)
            if found is not None:
                yield name, found, entry is not None
