"""What validation finds, in words for a newcomer and with its place in the text.

Law: no message names a class, a Python type or pydantic; each says what is expected and what is
there instead, but for the secrets of filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from meshproxy.config.examine import Examined, locate
from meshproxy.config.filters import is_secret
from meshproxy.config.place import Path
from meshproxy.config.reader import Node
from meshproxy.config.unfit import Unfit, closest, quoted

__all__ = ["report"]

_KEY = "[key]"  # what pydantic appends to the location of a key of a mapping


def report(error: ValidationError, root: Node, examined: Examined) -> None:
    """Add a problem to `examined` for everything in `error` that it does not hold already."""
    for found in error.errors(include_url=False):
        at: Path = tuple(found["loc"])
        of_key = bool(at) and at[-1] == _KEY
        at = at[:-1] if of_key else at
        if found["type"] == "missing":
            if at in examined.excused:
                continue
            line, column, _ = locate(root, at[:-1], key=True)
            examined.problem(line, column, at, f"'{at[-1]}' is missing")
            continue
        cause = found.get("ctx", {}).get("error")
        if isinstance(cause, Unfit):
            at = (*at, *cause.at)
        line, column, there = locate(root, at, key=of_key)
        if isinstance(cause, Unfit):
            message, suggestion = cause.message, cause.suggestion
        elif isinstance(cause, Exception):  # of a model that is no section
            message, suggestion = " ".join(str(cause).split()) or _there(found["input"]), None
        else:
            hidden = is_secret(at)
            value = (
                "***"
                if hidden and not isinstance(found["input"], list | Mapping)
                else found["input"]
            )
            message, suggestion = _words(found["type"], value, found.get("ctx", {}))
            if hidden:
                suggestion = None
            elif found["type"] == "string_type" and (node := _node(root, there)).kind == "scalar":
                message, suggestion = _not_text(node)
        examined.problem(line, column, there, message, suggestion)


def _node(root: Node, path: Path) -> Node:
    node = root
    for step in path:
        node = node.items[step] if isinstance(step, int) else node.entries[step].node
    return node


def _there(value: object) -> str:
    """Return what is there, by the names that YAML has for it."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return quoted(value)
    if isinstance(value, (int, float)):
        return f"the number {quoted(value)}"
    return f"the text {quoted(value)}"


def _not_text(node: Node) -> tuple[str, str | None]:
    """Return what is said of a number, a truth or nothing where text is expected."""
    if node.scalar is None:
        return "text is expected, and nothing is written", None
    there = _there(node.scalar)
    return f'text is expected, not {there}; put it in quotes: "{node.text[:64]}"', None


def _expected(what: str) -> Callable[[Any, Mapping[str, Any]], tuple[str, str | None]]:
    def words(value: Any, _: Mapping[str, Any]) -> tuple[str, str | None]:
        return f"{what} is expected, not {_there(value)}", None

    return words


def _bound(words: str, name: str) -> Callable[[Any, Mapping[str, Any]], tuple[str, str | None]]:
    def message(value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
        bound = context[name]
        shown = f"{bound:g}" if isinstance(bound, float) else bound
        return f"this must be {words} {shown}, and it is {quoted(value)}", None

    return message


def _boolean(value: Any, _: Mapping[str, Any]) -> tuple[str, str | None]:
    known = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
    hint = known.get(str(value).lower()[:6])
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return f"true or false is expected; take the quotes off {quoted(value)}", None
    return f"true or false is expected, not {_there(value)}", hint


def _whole(value: Any, _: Mapping[str, Any]) -> tuple[str, str | None]:
    message = f"a whole number is expected, not {_there(value)}"
    if isinstance(value, str):
        digits = value.replace("_", "").replace(",", "").strip()
        if digits.isascii() and digits.isdigit() and len(digits) < 16:
            if digits == value:
                return f"a whole number is expected; take the quotes off {quoted(value)}", None
            return message, digits
    return message, None


def _literal(value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
    expected = str(context["expected"]).replace("'", "")
    choices = [part.strip() for part in expected.replace(" or ", ", ").split(",")]
    hint = closest(value, choices) if isinstance(value, str) else None
    return f"{expected} is expected, not {_there(value)}", hint


def _list(value: Any, _: Mapping[str, Any]) -> tuple[str, str | None]:
    hint = f"[{value}]" if isinstance(value, str) and 0 < len(value) < 40 else None
    return f"a list is expected, not {_there(value)}", hint


def _finite(value: Any, _: Mapping[str, Any]) -> tuple[str, str | None]:
    return f"a number that ends is expected, not {quoted(value)}", None


def _number(value: Any, _: Mapping[str, Any]) -> tuple[str, str | None]:
    if isinstance(value, str) and len(value) < 16 and value.replace(".", "", 1).isdecimal():
        return f"a number is expected; take the quotes off {quoted(value)}", None
    hint = value.removesuffix("%").strip() if isinstance(value, str) and "%" in value else ""
    shown = hint if hint.isascii() and hint.isdecimal() and len(hint) < 16 else None
    return f"a number is expected, not {_there(value)}", shown


def _long(what: str) -> Callable[[Any, Mapping[str, Any]], tuple[str, str | None]]:
    def words(value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
        return f"at most {context['max_length']} {what} are expected, not {len(value)}", None

    return words


def _extra(value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
    return "unknown key", None


def _pattern(value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
    return f"text that matches {context['pattern']} is expected, not {quoted(value)}", None


def _empty(value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
    return "this cannot be empty", None


_MESSAGES: Mapping[str, Callable[[Any, Mapping[str, Any]], tuple[str, str | None]]] = {
    "bool_type": _boolean,
    "bool_parsing": _boolean,
    "dict_type": _expected("a mapping (key: value)"),
    "enum": _literal,
    "extra_forbidden": _extra,
    "model_type": _expected("a mapping (key: value)"),
    "model_attributes_type": _expected("a mapping (key: value)"),
    "finite_number": _finite,
    "float_type": _number,
    "int_type": _whole,
    "int_parsing": _whole,
    "int_parsing_size": _whole,
    "int_from_float": _whole,
    "list_type": _list,
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    "string_type": _expected("text"),
    "string_too_short": _empty,
    "string_too_long": _long("characters"),
    "too_short": _empty,
    "too_long": _long("entries"),
    "greater_than_equal": _bound("at least", "ge"),
    "less_than_equal": _bound("at most", "le"),
    "greater_than": _bound("more than", "gt"),
    "less_than": _bound("less than", "lt"),
}


def _words(kind: str, value: Any, context: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the message and suggestion for one of pydantic's kinds of errors."""
    words = _MESSAGES.get(kind)
    if words is None:
        return f"{_there(value)} cannot be used here ({kind.replace('_', ' ')})", None
    return words(value, context)
