"""
What the admin answers, path by path.

The laws it keeps:

- A path has the methods it says, HEAD where it has GET; any other method is 405 with Allow, any
  other path 404. What changes state is POST.
- A filter that fails to show itself is a 500; its traceback is in the log.
- Every answer passes the guard first, is never cached, and is not guessed at by a browser.
"""

from __future__ import annotations

import html
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from twisted.copyright import version as twisted_version
from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from meshproxy.admin.guard import host_refused, post_refused
from meshproxy.admin.state import AdminState
from meshproxy.admin.stats import BadFilter, as_json, as_text, compile_filter
from meshproxy.admin.table import certificates_text, clusters_text
from meshproxy.observe import prometheus

TEXT = b"text/plain; charset=utf-8"
JSON = b"application/json"
HTML = b"text/html; charset=utf-8"

#: twisted.web.server.Request, whose methods have no types.
Request = Any

_HEADERS = (
    (b"server", b"meshproxy"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    # Not "no-referrer": the forms of this page would be sent with "Origin: null".
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        (
            b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
            b"frame-ancestors 'none'; base-uri 'none'"
        ),
    ),
)

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>meshproxy</title><style>
body {{ font: 1em/1.5 system-ui, sans-serif; max-width: 45em; margin: 2em auto; padding: 0 1em }}
td, th {{ text-align: left; padding: .2em 1.5em .2em 0; vertical-align: top }}
</style></head><body><h1>meshproxy {version}</h1>
<p>{ready}, running for {uptime}.</p>
<table>{rows}</table></body></html>
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent: bytes, or steps of them."""

    body: bytes | Iterator[bytes]
    content_type: bytes = TEXT
    status: int = 200


@dataclass(frozen=True, slots=True)
class Page:
    """One path: what it is for, its method (GET means HEAD too) and what answers."""

    help: str
    answer: Callable[[Request], Answer]
    method: bytes = b"GET"


@implementer(IPullProducer)
class Steps:
    """Writes a body step by step, each when the one before has left, so that traffic goes on."""

    def __init__(self, request: Request, steps: Iterator[bytes]) -> None:
        self._request: Request | None = request
        self._steps = steps
        request.notifyFinish().addErrback(self._gone)
        request.registerProducer(self, False)

    def resumeProducing(self) -> None:
        """The next step, or the end."""
        request = self._request
        if request is None:
            return
        step = next(self._steps, None)
        if step is not None:
            request.write(step)
            return
        self._request = None
        request.unregisterProducer()
        request.finish()

    def stopProducing(self) -> None:
        """The client went away."""
        self._request = None

    def _gone(self, reason: object) -> None:
        self._request = None


class Root(Resource):
    """Every path of the admin."""

    isLeaf = True
    _log = Logger()

    def __init__(self, state: AdminState, wall: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._state = state
        self._wall = wall
        self.pages = {
            b"/": Page("this page", self._index),
            b"/ready": Page("200 while traffic should come here, else 503", self._ready),
            b"/live": Page("200 while the process works, else 503", self._live),
            b"/metrics": Page("every number for Prometheus", self._metrics),
            b"/stats": Page(
                "the same to read; ?filter=REGEX selects, ?format=json for programs", self._stats
            ),
            b"/clusters": Page(
                "clusters and their endpoints for programs; ?format=text to read", self._clusters
            ),
            b"/listeners": Page("listeners and their connections", self._listeners),
            b"/certs": Page(
                "certificates and when they end for programs; ?format=text to read", self._certs
            ),
            b"/filters": Page(
                "filters; /filters/LISTENER/NAME is what the filter of that name shows",
                self._filters,
            ),
            b"/config": Page("the configuration in force", self._config),
            b"/version": Page("versions and running time", self._version),
            b"/logs/reopen": Page("open the access logs anew", self._reopen, b"POST"),
        }

    def render(self, request: Request) -> bytes | int:
        """Answer a request."""
        for name, value in _HEADERS:
            request.setHeader(name, value)
        answer = self._answer(request)
        request.setResponseCode(answer.status)
        request.setHeader(b"content-type", answer.content_type)
        if isinstance(answer.body, bytes):
            return answer.body
        if request.method == b"HEAD":
            return b""
        # What fails at once fails before anything is sent, and is a 500.
        first = next(answer.body, b"")
        request.write(first)
        Steps(request, answer.body)
        return NOT_DONE_YET

    def _answer(self, request: Request) -> Answer:
        headers = request.requestHeaders
        hosts = headers.getRawHeaders(b"host", [])
        local = getattr(request.getHost(), "host", None)
        refused = host_refused(hosts, local, request.clientproto)
        if refused is not None:
            return _words(403, refused)
        page = self.pages.get(request.path)
        if page is None and request.path.startswith(b"/filters/"):
            page = Page("what a filter shows", self._shown)
        if page is None:
            return _words(404, "no such page; / lists them")
        allowed = [b"GET", b"HEAD"] if page.method == b"GET" else [page.method]
        if request.method not in allowed:
            request.setHeader(b"allow", b", ".join(allowed))
            return _words(405, f"this page takes {b' and '.join(allowed).decode()}")
        if page.method == b"POST":
            refused = post_refused(
                hosts[0] if hosts else None,
                headers.getRawHeaders(b"origin", []),
                headers.getRawHeaders(b"sec-fetch-site", []),
                request.isSecure(),
            )
            if refused is not None:
                return _words(403, refused)
            self._log.info("admin: POST {path}", path=request.path.decode("ascii", "replace"))
        return page.answer(request)

    # The pages

    def _index(self, request: Request) -> Answer:
        pages = [
            {"path": path.decode(), "method": page.method.decode(), "help": page.help}
            for path, page in self.pages.items()
        ]
        if _wants_json(request):
            return _json({"version": self._state.version, "pages": pages})
        rows = "".join(
            f"<tr><td>{_link(page['path'], page['method'])}</td>"
            f"<td>{html.escape(page['help'])}</td></tr>"
            for page in pages
        )
        body = _PAGE.format(
            version=html.escape(self._state.version),
            ready="Ready" if self._state.ready() else "Not ready",
            uptime=_duration(self._wall() - self._state.started),
            rows=rows,
        )
        return Answer(body.encode(), HTML)

    def _ready(self, request: Request) -> Answer:
        return _words(200, "LIVE") if self._state.ready() else _words(503, "NOT READY")

    def _live(self, request: Request) -> Answer:
        return _words(200, "LIVE") if self._state.live() else _words(503, "NOT LIVE")

    def _metrics(self, request: Request) -> Answer:
        accept = request.getHeader(b"accept")
        body, content_type = prometheus.chunks(
            self._state.registry, None if accept is None else accept.decode("latin-1")
        )
        return Answer(body, content_type)

    def _stats(self, request: Request) -> Answer:
        given = request.args.get(b"filter")
        try:
            pattern = None if not given else compile_filter(given[-1].decode("utf-8"))
            if _wants_json(request):
                return _json(as_json(self._state.registry, pattern))
            return Answer(as_text(self._state.registry, pattern).encode())
        except UnicodeDecodeError:
            return _words(400, "filter: not UTF-8")
        except BadFilter as error:
            return _words(400, f"filter: {error}")

    def _clusters(self, request: Request) -> Answer:
        clusters = self._state.clusters()
        if _wants_text(request):
            return Answer(clusters_text(clusters).encode())
        return _json({"clusters": clusters})

    def _listeners(self, request: Request) -> Answer:
        return _json({"listeners": self._state.listeners()})

    def _certs(self, request: Request) -> Answer:
        certificates = self._state.certificates()
        if _wants_text(request):
            return Answer(certificates_text(certificates).encode())
        return _json({"certificates": certificates})

    def _filters(self, request: Request) -> Answer:
        return _json({"filters": self._state.filters()})

    def _shown(self, request: Request) -> Answer:
        listener, _, label = (
            request.path[len(b"/filters/") :].decode("ascii", "replace").partition("/")
        )
        show = self._state.shown(listener, label)
        if show is None:
            return _words(404, "no filter of that name shows anything; /filters lists them")
        try:
            return _json(show())
        except Exception:
            self._log.failure("admin: {path}", path=request.path.decode("ascii", "replace"))
            return _words(500, "the filter failed to show itself; the log says how")

    def _config(self, request: Request) -> Answer:
        return _json(self._state.configuration())

    def _version(self, request: Request) -> Answer:
        started = self._state.started
        return _json(
            {
                "version": self._state.version,
                "python": platform.python_version(),
                "twisted": twisted_version,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "uptime_seconds": round(self._wall() - started, 3),
            }
        )

    def _reopen(self, request: Request) -> Answer:
        self._state.reopen_logs()
        return _words(200, "access logs reopened")


def _words(status: int, text: str) -> Answer:
    return Answer(text.encode() + b"\n", TEXT, status)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value, indent=2).encode() + b"\n", JSON)


def _wants_json(request: Request) -> bool:
    """By ``?format=``, else by Accept: JSON named before HTML and before any text."""
    asked = request.args.get(b"format")
    if asked:
        return bool(asked[-1] == b"json")
    for part in (request.getHeader(b"accept") or b"").lower().split(b","):
        kind = part.partition(b";")[0].strip()
        if kind == b"application/json":
            return True
        if kind in (b"text/html", b"text/plain", b"text/*", b"*/*"):
            return False
    return False


def _wants_text(request: Request) -> bool:
    """By ``?format=``, else by Accept: plain text named before JSON and before anything."""
    asked = request.args.get(b"format")
    if asked:
        return bool(asked[-1] == b"text")
    for part in (request.getHeader(b"accept") or b"").lower().split(b","):
        kind = part.partition(b";")[0].strip()
        if kind in (b"text/plain", b"text/*"):
            return True
        if kind in (b"application/json", b"*/*"):
            return False
    return False


def _link(path: str, method: str) -> str:
    path = html.escape(path)
    if method == "GET":
        return f'<a href="{path}">{path}</a>'
    return f'<form method="post" action="{path}"><button>{path}</button></form>'


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s"))
    return " ".join(f"{number} {unit}" for number, unit in parts if number) or "0 s"
