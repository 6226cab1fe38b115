"""
What a pydantic model takes, as text: for ``--help-filter`` and the configuration's reference page.

The law it keeps: everything is read from the model, nothing is written twice, so that what is
shown cannot drift from what is accepted.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from meshproxy.config import FilterItem, fields, files, names, overload
from meshproxy.config.filters import Choice
from meshproxy.config.values import format_duration

__all__ = ["Key", "Section", "keys", "lines", "sections"]

_WORDS: dict[Any, str] = {
    str: "text",
    int: "number",
    float: "number",
    bool: "true or false",
    Any: "anything",
    FilterItem: "filter",
}

_DURATION = "duration"
_SIZE = "size"
_NAMED: tuple[tuple[Any, str], ...] = (
    (fields.Duration, _DURATION),
    (fields.PositiveDuration, _DURATION),
    (fields.Size, _SIZE),
    (fields.Keepalive, "true, false or duration"),
    (fields.ListenAddress, "address"),
    (fields.EndpointAddress, "address"),
    (fields.TargetAddress, "address"),
    (fields.Weights, "cluster, or mapping of cluster to weight"),
    (fields.Regex, "regular expression"),
    (fields.PathText, "path"),
    (fields.Method, "method"),
    (fields.HeaderName, "header name"),
    (fields.EntryName, "name"),
    (files.FilePath, "file"),
    (names.ServerName, "DNS name or IP address"),
    (names.NamePattern, "DNS name, *.suffix or *"),
    (overload.Memory, "size or share"),
    (overload.Descriptors, "number or share"),
)
"""The types of configurations whose Python type says too little."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its name, what it takes, its default ("" where it is required) and its meaning."""

    name: str
    type: str
    default: str
    description: str


@dataclass(frozen=True, slots=True)
class Section:
    """One model: where it is reached from the root (``listeners.NAME.http``), and its keys."""

    model: type[BaseModel]
    path: str
    description: str
    keys: tuple[Key, ...]


def keys(model: type[BaseModel]) -> tuple[Key, ...]:
    """The keys of ``model``, in the order of its fields."""
    return tuple(_key(name, field) for name, field in model.model_fields.items())


def sections(model: type[BaseModel]) -> tuple[Section, ...]:
    """``model`` and every model inside it, each once, at the first path that reaches it."""
    seen: dict[type[BaseModel], Section] = {}

    def visit(model: type[BaseModel], path: str) -> None:
        if model in seen:
            return
        seen[model] = Section(model, path, _text(model.__doc__), keys(model))
        for name, field in model.model_fields.items():
            key = field.alias or name
            for inner, suffix in _models(field.annotation):
                visit(inner, f"{path}.{key}{suffix}" if path else f"{key}{suffix}")

    visit(model, "")
    return tuple(seen.values())


def lines(model: type[BaseModel]) -> Iterator[str]:
    """
    Every key of ``model`` as lines to read on a terminal, the keys of models inside it indented
    below; a model that is there twice is told once.
    """
    alone = getattr(model, "shorthand", "")
    if alone:
        yield f"The value of '{alone}' may stand alone."
        yield ""
    yield from _lines(model, "", {model})


def _lines(model: type[BaseModel], indent: str, told: set[type[BaseModel]]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = _key(name, field)
        default = f" = {key.default}" if key.default else ""
        yield f"{indent}{key.name}: {key.type}{default}"
        yield f"{indent}    {key.description}"
        for inner, _ in _models(field.annotation):
            if inner in told:
                yield f"{indent}    ({inner.__name__}: as above)"
                continue
            told.add(inner)
            yield from _lines(inner, indent + "    ", told)


def _key(name: str, field: FieldInfo) -> Key:
    shown = _named(field.metadata) or kind(field.annotation)
    default = _default(field, shown)
    return Key(field.alias or name, shown, default, _text(field.description))


def _text(text: str | None) -> str:
    return " ".join((text or "").split())


def _named(metadata: Iterable[Any]) -> str | None:
    """The name of the type whose metadata is among ``metadata``."""
    metadata = tuple(metadata)
    for entry in metadata:
        if isinstance(entry, Choice):
            return " | ".join((*entry.words, "plugin"))
    there = {id(entry) for entry in metadata}
    for alias, name in _NAMED:
        own = [entry for entry in alias.__metadata__ if not isinstance(entry, FieldInfo)]
        if all(id(entry) in there for entry in own):
            return name
    return None


def kind(annotation: Any) -> str:
    """What a value of this type looks like in a configuration, in words."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metadata = get_args(annotation)
        return _named(metadata) or kind(base)
    if origin is Literal:
        return " | ".join(_shown(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        parts = [kind(part) for part in get_args(annotation) if part is not type(None)]
        return " or ".join(dict.fromkeys(parts))
    if origin in (list, tuple, frozenset):
        inner = next((part for part in get_args(annotation) if part is not Ellipsis), Any)
        return f"list of {kind(inner)}"
    if origin is not None and issubclass(origin, dict | types.MappingProxyType):
        key, value = get_args(annotation)
        return f"mapping of {kind(key)} to {kind(value)}"
    if annotation in _WORDS:
        return _WORDS[annotation]
    return str(getattr(annotation, "__name__", annotation))


def _default(field: FieldInfo, shown: str) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    if shown == _DURATION:
        return format_duration(value)
    if shown == _SIZE and value and value % 1024 == 0:
        return f"{value >> 10}KiB"
    return _shown(value)


def _shown(value: Any) -> str:
    """A value as YAML says it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, BaseModel):
        return _shown({name: getattr(value, name) for name in sorted(value.model_fields_set)})
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_shown(k)}: {_shown(v)}" for k, v in value.items()) + "}"
    return str(value)


def _models(annotation: Any, suffix: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """The models inside a type, each with what has to follow the key to reach it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, suffix
        return
    origin = get_origin(annotation)
    inner = get_args(annotation)
    if origin in (list, tuple, frozenset):
        suffix += "[]"
    elif isinstance(origin, type) and issubclass(origin, dict | types.MappingProxyType):
        suffix += ".NAME"
        inner = inner[1:]
    elif origin is Annotated:
        inner = inner[:1]
    for part in inner:
        yield from _models(part, suffix)
