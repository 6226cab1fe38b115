"""The types of single values: each checks what it is given and says it plainly.

Laws:
- A check raises `Unfit` and returns the value in its one canonical form (names in lower case).
- What goes into a header or a request line can hold no CR, LF or NUL (RFC 9110 section 5.5), so
  that a configuration can no more split a message than a client can.
- Every regular expression is compiled here, as bytes, as it will be used.
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, PlainValidator
from pydantic.json_schema import WithJsonSchema

from meshproxy.config.unfit import Unfit, closest, quoted
from meshproxy.config.values import (
    Address,
    format_duration,
    parse_duration,
    parse_endpoint,
    parse_listen,
    parse_size,
    parse_target,
)

__all__ = [
    "Duration",
    "EndpointAddress",
    "EntryName",
    "HeaderName",
    "HeaderText",
    "HostName",
    "Keepalive",
    "ListenAddress",
    "Method",
    "PathText",
    "PositiveDuration",
    "PositiveSize",
    "Regex",
    "Size",
    "TargetAddress",
    "Token",
    "Truth",
    "Weights",
    "check_entry_name",
    "check_header_name",
    "check_path",
    "check_regex",
]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_ENTRY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*")
_LITERAL6 = re.compile(r"\[[0-9A-Fa-f:.]+\]")
_LONGEST_REGEX = 4096

_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")


def _positive(value: float) -> float:
    if value <= 0:
        raise Unfit("this duration cannot be 0")
    return value


def _positive_size(value: int) -> int:
    if value <= 0:
        raise Unfit("this size cannot be 0")
    return value


def check_token(value: str) -> str:
    """Return `value`, a token of RFC 9110 section 5.6.2. Raises `Unfit`."""
    if not _TOKEN.fullmatch(value):
        raise Unfit(f"a word of letters, digits and dashes is expected, not {quoted(value)}")
    return value


def check_header_name(value: str) -> str:
    """Return the name of a header in lower case. Raises `Unfit`."""
    if not _TOKEN.fullmatch(value):
        hint = value.strip().rstrip(":").strip()
        raise Unfit(
            f"not the name of a header: {quoted(value)}",
            hint.lower() if hint != value and _TOKEN.fullmatch(hint) else None,
        )
    return value.lower()


def _header_text(value: str) -> str:
    for index, character in enumerate(value):
        if (character < " " and character != "\t") or character == "\x7f":
            raise Unfit(
                f"a header cannot hold {quoted(character)}, which is character {index + 1} of this"
            )
    if value != value.strip(" \t"):
        raise Unfit("a header's value can neither begin nor end with a space")
    return value


def _method(value: str) -> str:
    check_token(value)
    if value != value.upper():
        raise Unfit(f"methods are in capitals, and {quoted(value)} is not", value.upper())
    if value not in _METHODS:
        hint = closest(value, _METHODS)
        if hint is not None:
            raise Unfit(f"not a known method: {quoted(value)}", hint)
    return value


def check_path(value: str) -> str:
    """Return `value`, a path as it is sent, without a query. Raises `Unfit`."""
    if not value.startswith("/"):
        raise Unfit(f"a path begins with '/', and {quoted(value)} does not", _slashed(value))
    for mark, name in (("?", "a query"), ("#", "a fragment")):
        if mark in value:
            raise Unfit(f"a path has no {mark!r}: {quoted(value)} holds {name}")
    if not (value.isascii() and value.isprintable() and " " not in value):
        raise Unfit(f"a path is written percent-encoded, as it is sent: {quoted(value)}")
    return value


def _slashed(value: str) -> str | None:
    return "/" + value if re.fullmatch(r"[A-Za-z0-9_./-]{1,60}", value) else None


def _match_path(value: str) -> str:
    """Return a path to compare with; `*` is that of `OPTIONS *` (RFC 9112 section 3.2.4)."""
    return value if value == "*" else check_path(value)


def check_regex(value: str) -> str:
    """Return `value`, a regular expression of Python's `re` for bytes. Raises `Unfit`."""
    if len(value) > _LONGEST_REGEX:
        raise Unfit(f"a regular expression is at most {_LONGEST_REGEX} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            re.compile(value.encode())
    except re.error as error:
        where = "" if error.pos is None else f" at character {error.pos + 1}"
        raise Unfit(f"not a regular expression: {error.msg}{where}") from None
    except (OverflowError, RecursionError, UnicodeEncodeError, ValueError) as error:
        raise Unfit(f"not a regular expression: {error}") from None
    return value


def _host(value: str) -> str:
    """Return the name of a host in lower case, without a port; an IPv6 number in brackets."""
    if _HOST.fullmatch(value) or _LITERAL6.fullmatch(value):
        return value.lower()
    name, _, port = value.rpartition(":")
    if port.isdigit() and (_HOST.fullmatch(name) or _LITERAL6.fullmatch(name)):
        raise Unfit(f"a host without a port is expected, not {quoted(value)}", name.lower())
    hint = None
    if not value.isascii() and len(value) <= 64:
        try:
            hint = value.encode("idna").decode()
        except UnicodeError:
            hint = None  # no such name can exist, so there is nothing to suggest
    raise Unfit(f"not the name of a host: {quoted(value)}", hint)


def _authority(value: str) -> str:
    """Return a host with an optional port, as in a Host header (RFC 9110 section 7.2)."""
    name, colon, port = value.rpartition(":")
    if colon and port.isascii() and port.isdigit() and int(port[:6]) in range(1, 65536):
        return f"{_host(name)}:{int(port)}"
    if colon and port.isdigit() and _HOST.fullmatch(name):
        raise Unfit(f"a port is 1 to 65535, unlike that of {quoted(value)}")
    return _host(value)


def _host_pattern(value: str) -> str:
    """Return an exact host, `*.suffix` or `*`, in lower case."""
    if value == "*":
        return value
    if value.startswith("*."):
        try:
            return "*." + _host(value[2:])
        except Unfit as error:
            hint = None if error.suggestion is None else "*." + error.suggestion
            raise Unfit(error.message, hint) from None
    if "*" in value:
        raise Unfit(f"'*' stands alone or as '*.' at the beginning, unlike in {quoted(value)}")
    return _host(value)


def check_entry_name(value: str) -> str:
    """Return `value`, the name of an entry. Raises `Unfit`."""
    if not _ENTRY.fullmatch(value):
        raise Unfit(
            f"a name is letters, digits, '_', '-' and '.', at most 128, unlike {quoted(value)}"
        )
    return value


def _upgrade(value: str) -> str:
    """Return an upgrade's token in lower case.

    `h2c` is refused: a tunnel that the client speaks HTTP/2 in walks past every route (RFC 9113
    section 3.1 dropped it).
    """
    token = check_token(value).lower()
    if token == "h2c":
        raise Unfit("an h2c tunnel would walk past every route, so it is never let through")
    return token


def _weights(value: Any) -> Any:
    return {value: 1} if isinstance(value, str) else value


def _truth(value: Any) -> Any:
    """Return True; anything else is refused, since leaving the key out says it."""
    if value is not True:
        raise Unfit(f"true is expected, not {quoted(value)}; without it leave the key out")
    return value


def _keepalive(value: Any) -> bool | float:
    """Return False, True, or seconds (1 to 32767, the bounds of Linux's TCP_KEEPIDLE)."""
    if isinstance(value, bool):
        return value
    try:
        seconds = parse_duration(value)
    except Unfit as error:
        message = f"true, false or a duration such as 30s is expected, not {quoted(value)}"
        raise Unfit(message, error.suggestion) from None
    if not 1 <= seconds <= 32767:
        raise Unfit("keepalive's duration is from 1s to 32767s")
    return seconds


def _keepalive_text(value: bool | float) -> bool | str:
    return value if isinstance(value, bool) else format_duration(value)


_DURATION_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^(0|(\d+(\.\d+)?(ms|[smhd]))+)$"},
        {"const": 0},
    ],
    "examples": ["250ms", "5s", "1m30s", "1h"],
}
_SIZE_SCHEMA = {
    "anyOf": [
        {"type": "string", "pattern": r"^\d+(B|KiB|MiB|GiB)?$"},
        {"type": "integer", "minimum": 0},
    ],
    "examples": ["64KiB", "1MiB"],
}

_as_duration = PlainSerializer(format_duration, return_type=str, when_used="json")
_as_text = PlainSerializer(str, return_type=str, when_used="json")

Duration = Annotated[
    float, PlainValidator(parse_duration), _as_duration, WithJsonSchema(_DURATION_SCHEMA)
]
"""Seconds, 0 or more."""

PositiveDuration = Annotated[
    float,
    PlainValidator(lambda value: _positive(parse_duration(value))),
    _as_duration,
    WithJsonSchema(_DURATION_SCHEMA["anyOf"][0] | {"examples": ["250ms", "5s", "1m30s", "1h"]}),
]
"""Seconds, more than 0."""

Size = Annotated[int, PlainValidator(parse_size), WithJsonSchema(_SIZE_SCHEMA)]
"""Bytes, 0 or more."""

PositiveSize = Annotated[Size, AfterValidator(_positive_size)]
"""Bytes, more than 0."""

Keepalive = Annotated[
    bool | float,
    PlainValidator(_keepalive),
    PlainSerializer(_keepalive_text, return_type=bool | str, when_used="json"),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, _DURATION_SCHEMA["anyOf"][0]]}),
]

ListenAddress = Annotated[
    Address,
    PlainValidator(parse_listen),
    _as_text,
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:8080", ":80", "unix:/run/x.sock"]}),
]
EndpointAddress = Annotated[
    Address,
    PlainValidator(parse_endpoint),
    _as_text,
    WithJsonSchema({"type": "string", "examples": ["127.0.0.1:9001", "unix:/run/x.sock"]}),
]
TargetAddress = Annotated[
    Address,
    PlainValidator(parse_target),
    _as_text,
    WithJsonSchema(
        {"type": "string", "examples": ["127.0.0.1:9001", "api.example:80", "unix:/run/x.sock"]}
    ),
]

EntryName = Annotated[str, AfterValidator(check_entry_name)]
HeaderName = Annotated[str, AfterValidator(check_header_name)]
HeaderText = Annotated[str, AfterValidator(_header_text)]
HostName = Annotated[str, AfterValidator(_host)]
HostPattern = Annotated[str, AfterValidator(_host_pattern)]
Authority = Annotated[str, AfterValidator(_authority)]
Method = Annotated[str, AfterValidator(_method)]
MatchPath = Annotated[str, AfterValidator(_match_path)]
PathText = Annotated[str, AfterValidator(check_path)]
Regex = Annotated[str, AfterValidator(check_regex), WithJsonSchema({"type": "string"})]
Token = Annotated[str, AfterValidator(check_token)]
Upgrade = Annotated[str, AfterValidator(_upgrade)]

Truth = Annotated[Literal[True], BeforeValidator(_truth)]

Weight = Annotated[int, Field(ge=1, le=1_000_000)]
Weights = Annotated[
    dict[str, Weight],
    Field(min_length=1),
    BeforeValidator(_weights, json_schema_input_type=str | dict[str, Weight]),
]
"""Clusters and their weights; the name of one alone is that one with weight 1."""
