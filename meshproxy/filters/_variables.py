"""
Header values with variables in them, ``%REQ(user-agent)%``.

The law it keeps: a text is compiled once, to one function of an exchange; what is unknown, or not
known yet where it is asked for, is refused then. What is missing is empty. Nothing that a peer
sent can end a header: control characters become ``?``.

The names are Envoy's command operators, those that mean something here.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable
from typing import Any

from meshproxy.api import Unfit, peer_texts
from meshproxy.filters._wanted import text_of

__all__ = ["Value", "compile_value"]

Value = Callable[[Any], bytes]
"""The bytes of a value for an exchange."""

_VARIABLE = re.compile(r"%([A-Z][A-Z0-9_]*)(?:\(([^)]*)\))?(?::([0-9]{1,5}))?%")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CLEAN = bytes(
    code if (code >= 0x20 and code != 0x7F) or code == 0x09 else 0x3F for code in range(256)
)


def _host(address: bytes) -> bytes:
    host, colon, port = address.rpartition(b":")
    return host.strip(b"[]") if colon and port.isdigit() else address


def _port(address: bytes) -> bytes:
    port = address.rpartition(b":")[2]
    return port if port.isdigit() and port != address else b""


def _tls(name: str) -> Value:
    def value(exchange: Any) -> bytes:
        tls = exchange.tls
        return b"" if tls is None else getattr(tls, name) or b""

    return value


def _peer(text: str) -> Value:
    def value(exchange: Any) -> bytes:
        found: bytes = getattr(peer_texts(exchange.tls), text)
        return found

    return value


def _names(kind: str) -> Value:
    return lambda exchange: peer_texts(exchange.tls).joined(kind)


def _status(exchange: Any) -> bytes:
    return b"%d" % exchange.status


def _of(name: str) -> Value:
    return lambda exchange: getattr(exchange, name)


# Known while the request's head passes.
_EARLY: dict[str, Value] = {
    "DOWNSTREAM_LOCAL_ADDRESS": _of("local"),
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT": lambda exchange: _host(exchange.local),
    "DOWNSTREAM_LOCAL_PORT": lambda exchange: _port(exchange.local),
    "DOWNSTREAM_PEER_CERT_V_END": _peer("ends"),
    "DOWNSTREAM_PEER_CERT_V_START": _peer("begins"),
    "DOWNSTREAM_PEER_DNS_SAN": _names("dns"),
    "DOWNSTREAM_PEER_EMAIL_SAN": _names("emails"),
    "DOWNSTREAM_PEER_FINGERPRINT_256": _peer("fingerprint"),
    "DOWNSTREAM_PEER_IP_SAN": _names("addresses"),
    "DOWNSTREAM_PEER_ISSUER": _peer("issuer"),
    "DOWNSTREAM_PEER_SERIAL": _peer("serial"),
    "DOWNSTREAM_PEER_SUBJECT": _peer("subject"),
    "DOWNSTREAM_PEER_URI_SAN": _names("uris"),
    "DOWNSTREAM_REMOTE_ADDRESS": _of("client"),
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": _of("client_ip"),
    "DOWNSTREAM_REMOTE_PORT": lambda exchange: _port(exchange.client),
    "DOWNSTREAM_TLS_ALPN": _tls("alpn"),
    "DOWNSTREAM_TLS_CIPHER": _tls("cipher"),
    "DOWNSTREAM_TLS_VERSION": _tls("version"),
    "LISTENER_NAME": _of("listener_name"),
    "PROTOCOL": _of("protocol"),
    "REQUESTED_SERVER_NAME": _tls("server_name"),
    "ROUTE_NAME": _of("route_name"),
}
# Known with the response.
_LATE: dict[str, Value] = {
    "BYTES_RECEIVED": lambda exchange: b"%d" % exchange.bytes_received,
    "REQUEST_ID": _of("request_id"),
    "RESPONSE_CODE": _status,
    "RESPONSE_CODE_DETAILS": _of("details"),
    "RESPONSE_FLAGS": _of("flags"),
    "STREAM_ID": _of("request_id"),
    "UPSTREAM_CLUSTER": _of("cluster_name"),
    "UPSTREAM_HOST": _of("upstream"),
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": lambda exchange: b"%d" % exchange.attempts,
}
_PSEUDO: dict[str, Value] = {
    ":authority": lambda exchange: exchange.request.authority,
    ":method": lambda exchange: exchange.request.method,
    ":path": lambda exchange: exchange.request.target,
    ":scheme": _of("scheme"),
    "host": lambda exchange: exchange.request.authority,
}
_WITH_ARGUMENT = ("DYNAMIC_METADATA", "PATH", "REQ", "RESP", "START_TIME")
_NAMES = (*_EARLY, *_LATE, *_WITH_ARGUMENT)


def compile_value(
    text: str, clock: Callable[[], Callable[[float], float]], *, late: bool
) -> bytes | Value:
    """
    What ``text`` stands for: bytes where there is no variable in it, else a function.

    ``late``: the response is there. ``clock()`` gives the function from a time of the exchange to
    seconds since 1970; it is called with the first exchange. ``%%`` is a percent sign.

    Raises :class:`meshproxy.api.Unfit`.
    """
    parts: list[bytes | Value] = []
    literal = ""
    position = 0
    while position < len(text):
        mark = text.find("%", position)
        literal += text[position : mark if mark >= 0 else len(text)]
        if mark < 0:
            break
        if text.startswith("%%", mark):
            literal += "%"
            position = mark + 2
            continue
        match = _VARIABLE.match(text, mark)
        if match is None:
            raise Unfit(
                f"'{text[mark : mark + 40]}' is no variable; a percent sign itself is written '%%'"
            )
        if literal:
            parts.append(literal.encode())
            literal = ""
        value = _variable(match[1], match[2], clock, late)
        parts.append(value if match[3] is None else _cut(value, int(match[3])))
        position = match.end()
    if literal or not parts:
        parts.append(literal.encode())
    return _joined(parts)


def _joined(parts: list[bytes | Value]) -> bytes | Value:
    first = parts[0]
    if len(parts) == 1:
        if isinstance(first, bytes):
            return first
        only = first
        return lambda exchange: only(exchange).translate(_CLEAN)

    def value(exchange: Any) -> bytes:
        return b"".join(
            [part if type(part) is bytes else part(exchange) for part in parts]  # type: ignore[operator]
        ).translate(_CLEAN)

    return value


def _cut(value: Value, length: int) -> Value:
    return lambda exchange: value(exchange)[:length]


def _variable(
    name: str, argument: str | None, clock: Callable[[], Callable[[float], float]], late: bool
) -> Value:
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, 1)
        raise Unfit(f"there is no variable %{name}%", f"%{near[0]}%" if near else None)
    if name in ("REQ", "RESP"):
        if name == "RESP" and not late:
            raise Unfit("%RESP% is not known yet when a request is changed")
        return _header(name, argument)
    if name == "START_TIME":
        return _start_time(argument, clock)
    if name == "DYNAMIC_METADATA":
        if not argument:
            raise Unfit("%DYNAMIC_METADATA(name)% needs the name of a fact")
        key = argument
        return lambda exchange: text_of(exchange.metadata.get(key)) or b""
    if name == "PATH":
        if argument not in ("NQ", "WQ"):
            raise Unfit("write %PATH(NQ)% for the path alone, %PATH(WQ)% with the query")
        if argument == "NQ":
            return lambda exchange: exchange.request.path
        return _PSEUDO[":path"]
    if argument is not None:
        raise Unfit(f"%{name}% takes nothing in parentheses")
    if name in _EARLY:
        return _EARLY[name]
    if not late:
        raise Unfit(f"%{name}% is not known yet when a request is changed")
    return _LATE[name]


def _header(name: str, argument: str | None) -> Value:
    """``REQ(a)``, or ``REQ(a?b)`` for b where there is no a."""
    choices = (argument or "").lower().split("?")
    if len(choices) > 2 or not all(_NAME.fullmatch(choice.lstrip(":")) for choice in choices):
        raise Unfit(f"%{name}% is followed by a header's name, or two with '?': %{name}(a?b)%")
    values = [_field(name, choice) for choice in choices]
    if len(values) == 1:
        return values[0]
    first, second = values
    return lambda exchange: first(exchange) or second(exchange)


def _field(name: str, header: str) -> Value:
    if name == "REQ" and header in _PSEUDO:
        return _PSEUDO[header]
    if header.startswith(":"):
        known = ", ".join(choice for choice in _PSEUDO if choice.startswith(":"))
        raise Unfit(f"there is no '{header}' for %{name}%, only {known} of a request")
    key = header.encode()
    if name == "REQ":
        return lambda exchange: exchange.request.headers.get(key, b"")
    return lambda exchange: exchange.response.headers.get(key, b"")


def _start_time(form: str | None, clock: Callable[[], Callable[[float], float]]) -> Value:
    """When the request began (UTC): ISO 8601 with milliseconds, or by a strftime format."""
    held: list[Callable[[float], float]] = []

    def value(exchange: Any) -> bytes:
        if not held:
            held.append(clock())
        seconds = held[0](exchange.start)
        moment = time.gmtime(seconds)
        if form:
            # strftime's own %s goes by the local time zone.
            return time.strftime(form.replace("%s", str(int(seconds))), moment).encode()
        milliseconds = int(seconds % 1 * 1000)
        return b"%b.%03dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", moment).encode(), milliseconds)

    return value
