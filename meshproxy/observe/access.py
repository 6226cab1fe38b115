"""
A record becomes a line of the access log.

The laws it keeps:

- A format is compiled once, into one function that reads each attribute once and joins once.
- A line is one line and ends in ``\\n``; nothing that a peer sent can end it, start another, or be
  taken for another field in quotation marks (:mod:`meshproxy.observe.escape`). A JSON line is one
  JSON object in ASCII, whatever the bytes.
- Credentials are never written: :data:`SECRET` headers appear as ``***``.
- What is missing is ``-`` in text; in JSON, ``""`` for a text and null for a time.

``text`` is Envoy's default format. ``json`` has these keys, in this order: time, listener,
protocol, status, flags, details, route, cluster, upstream, attempts, client, method, authority,
path, bytes_received, bytes_sent, duration_ms, upstream_connect_ms, upstream_ms, request_id,
user_agent, forwarded_for; and behind them, where a listener has TLS, tls_version and server_name.
Anything else is a line with Envoy's command operators (those of
:func:`operators`), written as in
https://www.envoyproxy.io/docs/envoy/latest/configuration/observability/access_log/usage.

All times are whole milliseconds, those of the JSON keys with microseconds behind the point. The
upstream's time (upstream_ms, ``%UPSTREAM_SERVICE_TIME%`` and Envoy's header of that name) runs from
``upstream_start``, or from the record's start where that is not known, to the response's.
"""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Callable, Sequence

from meshproxy.observe.escape import escape_json, escape_text
from meshproxy.observe.line import Formatter, Line
from meshproxy.observe.wall import Wall

__all__ = ["SECRET", "TEXT", "Formatter", "compile_format", "operators"]

#: Headers whose values are never logged.
SECRET = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))

#: Envoy's default format.
TEXT = (
    '[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" '
    "%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% "
    '%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" '
    '"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"'
)

_TEXTS = {
    "PROTOCOL": "protocol",
    "RESPONSE_CODE_DETAILS": "details",
    "RESPONSE_FLAGS": "flags",
    "UPSTREAM_HOST": "upstream",
    "UPSTREAM_CLUSTER": "cluster_name",
    "UPSTREAM_LOCAL_ADDRESS": "upstream_local",
    "DOWNSTREAM_REMOTE_ADDRESS": "client",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT": "client_ip",
    "DOWNSTREAM_LOCAL_ADDRESS": "local",
    "ROUTE_NAME": "route_name",
    "LISTENER_NAME": "listener_name",
}
_NUMBERS = {
    "RESPONSE_CODE": "status",
    "BYTES_RECEIVED": "bytes_received",
    "BYTES_SENT": "bytes_sent",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT": "attempts",
}
#: Facts about the client's TLS, and what its certificate says: attributes of
#: :class:`meshproxy.observe.certificate.CertificateTexts`.
_TLS = {
    "REQUESTED_SERVER_NAME": "server_name",
    "DOWNSTREAM_TLS_VERSION": "version",
    "DOWNSTREAM_TLS_CIPHER": "cipher",
    "DOWNSTREAM_TLS_ALPN": "alpn",
}
_PEER = {
    "DOWNSTREAM_PEER_SUBJECT": "subject",
    "DOWNSTREAM_PEER_ISSUER": "issuer",
    "DOWNSTREAM_PEER_SERIAL": "serial",
    "DOWNSTREAM_PEER_FINGERPRINT_256": "fingerprint",
    "DOWNSTREAM_PEER_CERT_V_START": "begins",
    "DOWNSTREAM_PEER_CERT_V_END": "ends",
}
_PEER_NAMES = {
    "DOWNSTREAM_PEER_URI_SAN": "uris",
    "DOWNSTREAM_PEER_DNS_SAN": "dns",
    "DOWNSTREAM_PEER_EMAIL_SAN": "emails",
    "DOWNSTREAM_PEER_IP_SAN": "addresses",
}
_SPANS = {
    "DURATION": ("start", "end"),
    "REQUEST_DURATION": ("start", "request_end"),
    "RESPONSE_DURATION": ("start", "response_start"),
    "RESPONSE_TX_DURATION": ("response_start", "end"),
    "UPSTREAM_CONNECT_TIME": ("upstream_start", "connected_at"),
    "UPSTREAM_SERVICE_TIME": ("upstream_start", "response_start", "start"),
}
#: Request headers that are attributes of a record. ``path`` is as received, so it is what Envoy
#: calls the original path; a client's own header of that name is not believed.
_PSEUDO = {
    b":method": "method",
    b":path": "path",
    b":authority": "authority",
    b"host": "authority",
    b":scheme": "scheme",
    b"x-request-id": "request_id",
    b"x-envoy-original-path": "path",
}

#: Key, and what to write: an operator, an attribute or (bytes) a request header.
_JSON: tuple[tuple[str, str | bytes], ...] = (
    ("time", "START_TIME"),
    ("listener", "listener_name"),
    ("protocol", "protocol"),
    ("status", "RESPONSE_CODE"),
    ("flags", "flags"),
    ("details", "details"),
    ("route", "route_name"),
    ("cluster", "cluster_name"),
    ("upstream", "upstream"),
    ("attempts", "UPSTREAM_REQUEST_ATTEMPT_COUNT"),
    ("client", "client"),
    ("method", "method"),
    ("authority", "authority"),
    ("path", "path"),
    ("bytes_received", "BYTES_RECEIVED"),
    ("bytes_sent", "BYTES_SENT"),
    ("duration_ms", "DURATION"),
    ("upstream_connect_ms", "UPSTREAM_CONNECT_TIME"),
    ("upstream_ms", "UPSTREAM_SERVICE_TIME"),
    ("request_id", "request_id"),
    ("user_agent", b"user-agent"),
    ("forwarded_for", b"x-forwarded-for"),
)
#: The same behind them, where a listener has TLS.
_JSON_TLS = (
    ("tls_version", "DOWNSTREAM_TLS_VERSION"),
    ("server_name", "REQUESTED_SERVER_NAME"),
)

_OPERATOR = re.compile(r"%([A-Z][A-Z0-9_]*)(?:\(([^)]*)\))?(?::([0-9]{1,5}))?%")
_HEADER = re.compile(r":?[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]").search


def compile_format(
    format: str,  # noqa: A002
    clock: Callable[[], float] = time.time,
    wall: Callable[[], float] = time.time,
    *,
    tls: bool = False,
) -> Formatter:
    """
    The function that writes a record as one line, its ``\\n`` included.

    ``format`` is ``text``, ``json`` or a line with operators; ``clock`` is the clock of the
    records' times (``reactor.seconds``), ``wall`` gives seconds since 1970. ``tls``: they come
    from a listener that has TLS.

    Raises ``ValueError`` that names the bad operator and its position, counted from 1.
    """
    measured = Wall(clock, wall)
    if format == "json":
        return _json(measured, _JSON + _JSON_TLS if tls else _JSON)
    return _operators(TEXT if format == "text" else format, measured)


def operators() -> tuple[str, ...]:
    """The names of all operators, in order."""
    named = ("START_TIME", "REQ", "RESP", "DYNAMIC_METADATA")
    return tuple(sorted((*_TEXTS, *_NUMBERS, *_SPANS, *_TLS, *_PEER, *_PEER_NAMES, *named)))


def _json(wall: Wall, keys: Sequence[tuple[str, str | bytes]]) -> Formatter:
    line = Line(b"", b"null", True, escape_json, wall)
    for number, (key, source) in enumerate(keys):
        line.literal(b'%b"%b":' % (b"," if number else b"{", key.encode()))
        if source in _NUMBERS:
            line.number(_NUMBERS[str(source)])
            continue
        if source in _SPANS:
            line.span(*_SPANS[str(source)])
            continue
        line.literal(b'"')
        if isinstance(source, bytes):
            line.header("request_headers", [source], None)
        elif source == "START_TIME":
            line.start_time(None)
        elif source in _TLS:
            line.tls(_TLS[source])
        else:
            line.text(source)
        line.literal(b'"')
    line.literal(b"}\n")
    return line.compiled()


def _operators(format: str, wall: Wall) -> Formatter:  # noqa: A002
    format = format.removesuffix("\n")  # noqa: A001
    line = Line(b"-", b"-", False, escape_text, wall)
    position = 0
    while position < len(format):
        mark = format.find("%", position)
        text = format[position : mark if mark >= 0 else len(format)]
        control = _CONTROL(text)
        if control is not None:
            where = position + control.start() + 1
            raise ValueError(f"at {where}: control character {control[0]!r}")
        line.literal(text.encode())
        if mark < 0:
            break
        position = mark + 2
        if format.startswith("%%", mark):
            line.literal(b"%")
            continue
        match = _OPERATOR.match(format, mark)
        if match is None:
            raise ValueError(f"at {mark + 1}: not an operator: {format[mark : mark + 40]!r}")
        position = match.end()
        try:
            _operator(line, match[1], match[2], match[3])
        except ValueError as error:
            raise ValueError(f"at {mark + 1}: {match[0]}: {error}") from None
    line.literal(b"\n")
    return line.compiled()


def _operator(line: Line, name: str, argument: str | None, limit: str | None) -> None:
    """Add one operator. Raises ``ValueError`` saying what is wrong with it."""
    if name in ("REQ", "RESP"):
        attribute = "request_headers" if name == "REQ" else "response_headers"
        service_time, choices = _headers(name, argument)
        if service_time:
            line.span(*_SPANS["UPSTREAM_SERVICE_TIME"])
        else:
            line.header(attribute, choices, None if limit is None else int(limit))
        return
    if name == "DYNAMIC_METADATA":
        if not argument or argument.startswith("*") or _CONTROL(argument) is not None:
            raise ValueError("write the name of a fact that a filter notes")
        line.header("facts", [argument.encode()], None if limit is None else int(limit))
        return
    if limit is not None:
        raise ValueError("only REQ, RESP and DYNAMIC_METADATA take a length")
    if name == "START_TIME":
        if argument is not None and _CONTROL(argument) is not None:
            raise ValueError("control character in the date")
        line.start_time(argument or None)
        return
    if name not in operators():
        close = difflib.get_close_matches(name, operators(), 1)
        raise ValueError("no such operator" + (f"; did you mean {close[0]}?" if close else ""))
    if argument is not None:
        raise ValueError("this operator takes no argument")
    if name in _TEXTS:
        line.text(_TEXTS[name])
    elif name in _NUMBERS:
        line.number(_NUMBERS[name])
    elif name in _TLS:
        line.tls(_TLS[name])
    elif name in _PEER:
        line.peer(_PEER[name])
    elif name in _PEER_NAMES:
        line.peer_names(_PEER_NAMES[name])
    else:
        line.span(*_SPANS[name])


def _headers(name: str, argument: str | None) -> tuple[bool, list[str | bytes]]:
    """Whether the upstream's time is meant, else what to look for, as ``Line.header`` takes it."""
    wanted = (argument or "").lower().split("?")
    if len(wanted) > 2 or not all(map(_HEADER, wanted)):
        raise ValueError("write a header's name, or two with a question mark between")
    if name == "RESP" and wanted[0] == "x-envoy-upstream-service-time":
        return True, []
    choices: list[str | bytes] = []
    for header in map(str.encode, wanted):
        if name == "REQ" and header in _PSEUDO:
            choices.append(_PSEUDO[header])
        elif header.startswith(b":"):
            raise ValueError(f"no such pseudo header: {header.decode()}")
        else:
            choices.append(b"*" + header if header in SECRET else header)
    return False, choices
