"""
Record exchanges: their heads, the beginnings of their bodies, and what became of them.

The laws it keeps:

- What looks like a secret is not recorded: headers and parameters by their names, those told and
  those whose names say so.
- What is kept is bounded: ``keep`` exchanges in memory, ``body`` bytes of each body, a file of
  ``max_file`` bytes and the one before it.
- An exchange that is not wanted costs a look at its head, and bodies that are not wanted nothing.
- A record shows what passed here: of the request before the filters behind this one, of the
  response after them. Recording changes nothing of what passes.
"""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AfterValidator
from zope.interface import alsoProvides, implementer

from meshproxy.api import Duration, Field, HeaderName, Options, Size, Unfit
from meshproxy.filters._lines import LineFile
from meshproxy.filters._match import Applies, compile_applies
from meshproxy.interfaces import (
    IContextFilter,
    IExchangeObserver,
    IFilterContext,
    IFilterService,
    IRequestBodyFilter,
    IRequestFilter,
    IResponseBodyFilter,
    IResponseFilter,
)

__all__ = ["Tap"]

REDACTED = "[redacted]"

#: What is said of secrets by their names, of headers and of parameters.
_SECRET = re.compile(
    r"authori[sz]ation|authentication|cookie|token|secret|passw|passphrase|credential|session"
    r"|jwt|jws|apikey|signature|assertion|(^|[-_.])(auth|key|otp|pin)($|[-_.])"
)
_SECRET_PARAMETERS = frozenset(("code", "pass", "pwd", "sig", "sid"))

#: Headers that hold a URL, whose parameters may be secrets.
_URLS = frozenset((b"referer", b"location", b"content-location", b"refresh", b"link"))
_PARAMETER = re.compile(r"(?<=[?&;#])([^=&;#?\s<>\"]+)=([^&;#\s<>\"]*)")

#: Names whose judgement is kept.
_REMEMBERED = 1024

#: Bytes of bodies that are kept in memory, at most.
_MOST_KEPT = 64 << 20

_STATUS = re.compile(r"[1-5]xx|[1-5][0-9][0-9]")


def _status(value: str | int) -> str:
    text = str(value)
    if not _STATUS.fullmatch(text):
        raise Unfit(f"a status such as 404 or 5xx is expected, not '{text}'")
    return text


class Outcomes(Options):
    """What has to have become of an exchange: one of what is written is enough."""

    statuses: list[Annotated[int | str, AfterValidator(_status)]] = Field(
        default=[], description="The response's status: `404`, or `5xx` for all of a hundred."
    )
    errors: bool = Field(
        default=False,
        description="It went wrong: a 5xx, no response, or one that did not reach its end.",
    )
    slower_than: Duration = Field(
        default=0.0, description="It took longer than this, from its head to the end; 0: any time."
    )


class _Record:
    """What is kept of an exchange that may be recorded."""

    __slots__ = (
        "authority",
        "headers",
        "method",
        "request_body",
        "request_cut",
        "response_body",
        "response_cut",
        "response_headers",
        "status",
        "target",
    )

    def __init__(self, request: Any) -> None:
        self.method = request.method
        self.target = request.target
        self.authority = request.authority
        self.headers = list(request.headers.fields)
        self.status = 0
        self.response_headers: list[Any] = []
        self.request_body = b""
        self.request_cut = False
        self.response_body = b""
        self.response_cut = False


@implementer(IContextFilter, IFilterService, IRequestFilter, IResponseFilter, IExchangeObserver)
class Tap:
    """Record exchanges."""

    #: Bytes pass as they are.
    keeps_length = True

    class Options(Options):
        """Which exchanges are recorded, what of them, and where."""

        match: Applies | None = Field(
            default=None, description="Which requests are recorded; without it all of them."
        )
        only: Outcomes | None = Field(
            default=None, description="What has to have become of them; without it anything."
        )
        percent: float = Field(
            default=100.0,
            gt=0,
            le=100,
            description="How many of the requests that match are looked at.",
        )
        body: Annotated[Size, Field(le=1 << 20)] = Field(
            default=0,
            description="Bytes of each body that are recorded, from its beginning. Bodies may "
            "hold secrets, which nothing here can find.",
        )
        keep: int = Field(
            default=20,
            ge=0,
            le=1000,
            description="The exchanges that are kept in memory, the last ones, for the admin.",
        )
        file: str | None = Field(
            default=None,
            min_length=1,
            description="A file to write them to, a line of JSON each; relative to the "
            "configuration's directory.",
        )
        max_file: Annotated[Size, Field(ge=1 << 16)] = Field(
            default=10 << 20,
            description="How long the file may become; then it is moved to `FILE.1`, in place of "
            "the one that was moved before.",
        )
        redact: list[HeaderName] = Field(
            default=[],
            description="Headers that are secret, beside those whose names say so.",
        )
        redact_parameters: list[str] = Field(
            default=[],
            description="Parameters of the query that are secret, beside those whose names say so.",
        )
        reveal: list[HeaderName] = Field(
            default=[],
            description="Headers that are no secret although their names say so.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield what is wrong between the keys."""
            yield from super().faults(given)
            if given.get("keep") == 0 and given.get("file") is None:
                yield Unfit("nothing is kept and no file is written", at=("keep",))
            if "max_file" in given and given.get("file") is None:
                yield Unfit("'max_file' does nothing without 'file'", at=("max_file",))

    def __init__(self, options: Options) -> None:
        if 2 * options.body * options.keep > _MOST_KEPT:
            raise ValueError(
                f"{options.keep} exchanges with two bodies of {options.body} bytes are more than "
                "the 64 MiB that are kept in memory: write less at 'keep' or 'body'"
            )
        self._applies = compile_applies(options.match)
        only = options.only
        self._only = only
        if only is not None:
            if not (only.statuses or only.errors or only.slower_than):
                raise ValueError("'only' asks for nothing: 'statuses', 'errors' or 'slower_than'")
            self._statuses = frozenset(status for status in map(str, only.statuses))
        self._share = options.percent / 100
        self._draw = random.random
        self._body = options.body
        if self._body:
            alsoProvides(self, IRequestBodyFilter, IResponseBodyFilter)
        self._kept: deque[dict[str, Any]] = deque(maxlen=options.keep)
        self._path = options.file
        self._max_file = options.max_file
        self._file: LineFile | None = None
        self._told = frozenset(options.redact)
        self._open = frozenset(options.reveal)
        self._told_parameters = frozenset(name.lower() for name in options.redact_parameters)
        self._judged: dict[bytes, bool] = {}
        self._pending = 0
        self._seen = 0

    def attach(self, context: IFilterContext) -> None:
        """Ask for the counters, and a place in the admin."""
        self._context = context
        self._recorded = context.counter("recorded", "Exchanges that were recorded")
        dropped = context.counter("dropped", "Records that were not written to the file")
        if self._path is not None:
            self._file = LineFile(
                context.path(self._path),
                self._max_file,
                context.reactor,
                context.log,
                dropped.inc,
            )
        if self._kept.maxlen:
            context.show(self._describe)

    def start(self) -> None:
        """Open the file."""
        if self._file is not None:
            self._file.open()

    def stop(self) -> None:
        """Write what waits."""
        if self._file is not None:
            self._file.close()

    def _describe(self) -> dict[str, Any]:
        return {"recorded": self._seen, "exchanges": list(reversed(self._kept))}

    # On the path.

    def request(self, exchange: Any) -> None:
        """Decide by the head, and remember it."""
        share = self._share
        applies = self._applies
        if (share < 1 and self._draw() >= share) or (applies is not None and not applies(exchange)):
            if self._body and exchange.request.length:
                exchange.skip_body(self)
            return
        self._pending += 1
        exchange.notes[self] = _Record(exchange.request)

    def response(self, exchange: Any) -> None:
        """Remember the response's head."""
        record = exchange.notes.get(self) if self._pending else None
        if record is None:
            if self._body:
                exchange.skip_body(self)
            return
        record.status = exchange.status
        record.response_headers = list(exchange.response.headers.fields)

    def request_data(self, exchange: Any, data: bytes, end: bool) -> None:
        """Keep the beginning."""
        record = exchange.notes[self]
        room = self._body - len(record.request_body)
        if room > 0:
            record.request_body += data[:room]
        if len(data) > room:
            record.request_cut = True

    def response_data(self, exchange: Any, data: bytes, end: bool) -> None:
        """Keep the beginning."""
        record = exchange.notes[self]
        room = self._body - len(record.response_body)
        if room > 0:
            record.response_body += data[:room]
        if len(data) > room:
            record.response_cut = True

    def finished(self, exchange: Any) -> None:
        """Write it down, if it is wanted."""
        if not self._pending:
            return
        record = exchange.notes.pop(self, None)
        if record is None:
            return
        self._pending -= 1
        now = self._context.now()
        duration = now - exchange.start
        if self._only is not None and not self._wanted(self._only, exchange, duration):
            return
        entry = self._entry(exchange, record, duration)
        self._seen += 1
        self._recorded.inc()
        if self._kept.maxlen:
            self._kept.append(entry)
        if self._file is not None:
            self._file.add(json.dumps(entry, separators=(",", ":")).encode() + b"\n")

    def _wanted(self, only: Outcomes, exchange: Any, duration: float) -> bool:
        status = exchange.status
        if only.errors and (status >= 500 or not status or (status < 400 and _cut(exchange))):
            return True
        if 0 < only.slower_than < duration:
            return True
        text = str(status)
        return text in self._statuses or text[:1] + "xx" in self._statuses

    # The record.

    def _entry(self, exchange: Any, record: _Record, duration: float) -> dict[str, Any]:
        began = self._context.time() - duration
        request: dict[str, Any] = {
            "method": record.method.decode("latin-1"),
            "target": self._url(record.target.decode("latin-1")),
            "authority": record.authority.decode("latin-1"),
            "headers": self._headers(record.headers),
        }
        if self._body:
            request["body"] = b64encode(record.request_body).decode()
        request["truncated"] = record.request_cut or (
            not self._body and exchange.bytes_received > 0
        )
        request["bytes"] = exchange.bytes_received
        trailers = exchange.request.trailers
        if trailers:
            request["trailers"] = self._headers(trailers.fields)
        entry: dict[str, Any] = {"request": request}
        if record.status:
            response: dict[str, Any] = {
                "status": record.status,
                "headers": self._headers(record.response_headers),
            }
            if self._body:
                response["body"] = b64encode(record.response_body).decode()
            response["truncated"] = record.response_cut or (
                not self._body and exchange.bytes_sent > 0
            )
            response["bytes"] = exchange.bytes_sent
            entry["response"] = response
        entry["client"] = exchange.client.decode("latin-1")
        entry["start"] = datetime.fromtimestamp(began, UTC).isoformat(timespec="milliseconds")
        entry["duration"] = round(duration, 6)
        entry["status"] = exchange.status
        for name in (
            "flags",
            "details",
            "listener_name",
            "route_name",
            "cluster_name",
            "upstream",
            "request_id",
            "scheme",
            "protocol",
        ):
            entry[name.removesuffix("_name")] = getattr(exchange, name).decode("latin-1")
        entry["attempts"] = exchange.attempts
        entry["metadata"] = {
            name: value.decode("latin-1") if isinstance(value, bytes) else value
            for name, value in exchange.metadata.items()
        }
        return entry

    def _headers(self, fields: Iterable[Any]) -> list[list[str]]:
        found = []
        for field in fields:
            name = field[0]
            secret = self._judged.get(name)
            if secret is None:
                secret = self._judge(name)
            if secret:
                value = REDACTED
            else:
                value = field[1].decode("latin-1")
                if name in _URLS:
                    value = self._url(value)
            found.append([name.decode("latin-1"), value])
        return found

    def _judge(self, name: bytes) -> bool:
        text = name.decode("latin-1")
        secret = text in self._told or (text not in self._open and _SECRET.search(text) is not None)
        if len(self._judged) >= _REMEMBERED:
            self._judged.clear()
        self._judged[name] = secret
        return secret

    def _url(self, text: str) -> str:
        """The URL without the values of parameters whose names say that they are secret."""
        if "?" not in text and "#" not in text:
            return text
        return _PARAMETER.sub(self._parameter, text)

    def _parameter(self, found: re.Match[str]) -> str:
        name = unquote(found[1]).lower()
        if (
            name in self._told_parameters
            or name in _SECRET_PARAMETERS
            or _SECRET.search(name) is not None
        ):
            return f"{found[1]}={REDACTED}"
        return found[0]


def _cut(exchange: Any) -> bool:
    """Whether a response that began well did not come to its end."""
    return bool(exchange.flags != b"-")
