"""
Changes to headers, of requests and responses.

The law it keeps: values are compiled at start, what is fixed is a field made once, and headers that
frame a message, or that the proxy writes itself when it sends the request on, are not touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, HeaderName, Headers, HeaderText, Unfit
from meshproxy.filters._own_headers import FRAMING
from meshproxy.filters._variables import Value, compile_value
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter, IResponseFilter

__all__ = ["HeaderChanges"]

# What the proxy writes when its filters are through.
_FORWARDING = frozenset(
    {"x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id"}
)
_SERVER = frozenset({"server"})
_STATUSES = re.compile(r"([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?")
_SINGLE = ("set", "add", "append", "set_if_absent", "rename")


def _changeable(name: str) -> str:
    if name == "host":
        raise Unfit("the Host header is changed by a route's 'host_rewrite'")
    if name in FRAMING:
        raise Unfit(f"'{name}' frames the message, so the proxy alone sets it")
    return name


def _removable(name: str) -> str:
    _changeable(name.removesuffix("*"))
    if "*" in name.removesuffix("*") or len(name) < 2:
        raise Unfit("'*' stands at the end of a name: 'x-internal-*'")
    if name.endswith("*") and any(held.startswith(name[:-1]) for held in FRAMING):
        raise Unfit(f"'{name}' takes headers in that frame the message")
    return name


def _statuses(value: Any) -> Any:
    """Return the text of a status, as in ``404`` and ``5xx``."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    match = _STATUSES.fullmatch(value)
    if match is None or (match[3] is not None and match[3] < match[2]):
        raise Unfit("a status is written 404, 5xx or 400-499")
    return value


_Name = Annotated[HeaderName, AfterValidator(_changeable)]
_Removed = Annotated[HeaderName, AfterValidator(_removable)]
_Status = Annotated[str, BeforeValidator(_statuses, json_schema_input_type=int | str)]


def _same_names(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield headers written twice under one key, and those removed that are set anyway."""
    for key in _SINGLE:
        names = given.get(key)
        seen: dict[str, str] = {}
        for name in names if isinstance(names, Mapping) else ():
            if isinstance(name, str):
                earlier = seen.setdefault(name.lower(), name)
                if earlier != name:
                    yield Unfit(
                        f"this is the same header as '{earlier}'; case does not matter",
                        at=(key, name),
                    )
    written = given.get("set")
    put = {str(name).lower() for name in (written if isinstance(written, Mapping) else ())}
    removed = given.get("remove")
    for index, name in enumerate(removed if isinstance(removed, list) else ()):
        if isinstance(name, str) and name.lower() in put:
            yield Unfit(f"'{name}' is set as well, which replaces it anyway", at=("remove", index))
    appended = given.get("append")
    for name in appended if isinstance(appended, Mapping) else ():
        if str(name).lower() == "set-cookie":
            yield Unfit("cookies cannot be joined with commas: use 'add'", at=("append", name))


def _written_later(
    given: Mapping[str, Any], theirs: frozenset[str], instead: str
) -> Iterator[Unfit]:
    """Yield a fault for each change to a header that is written after the filters."""
    for key in _SINGLE:
        names = given.get(key)
        for name, value in names.items() if isinstance(names, Mapping) else ():
            for held in (name, value) if key == "rename" else (name,):
                if isinstance(held, str) and held.lower() in theirs:
                    yield Unfit(
                        f"'{held.lower()}' is written by the proxy after its filters: {instead}",
                        at=(key, name),
                    )


class Edits(api.Options):
    """
    Changes, in this order: rename, remove, set, set_if_absent, append, add.

    Values may hold variables; a value that comes out empty because of them sets nothing (and
    removes what ``set`` would have replaced). Those of ``set`` see headers as they were before
    ``remove`` and ``set``.
    """

    rename: dict[_Name, _Name] = Field(
        default={}, description="Headers that get another name; they replace those that have it."
    )
    remove: list[_Removed] = Field(
        default=[], description="Headers that are taken out; `x-internal-*` is all that begin so."
    )
    set: dict[_Name, HeaderText] = Field(
        default={}, description="Headers that get this value in place of any they had."
    )
    set_if_absent: dict[_Name, HeaderText] = Field(
        default={}, description="Headers that get this value where they are not there."
    )
    append: dict[_Name, HeaderText] = Field(
        default={}, description="Values put behind what is there, with a comma, as one header."
    )
    add: dict[_Name, HeaderText] = Field(
        default={}, description="Headers that get this value beside those they had."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield headers that are written twice, or both removed and set."""
        yield from super().faults(given)
        yield from _same_names(given)


class RequestEdits(Edits):
    """Changes to the request, before it is routed any further."""

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield headers that the proxy writes after its filters."""
        yield from super().faults(given)
        instead = "change it in a route's 'request_headers'"
        yield from _written_later(given, _FORWARDING, instead)


class ResponseMatch(api.Options):
    """Which responses are changed."""

    status: list[_Status] = Field(
        min_length=1, description="Their statuses: `404`, `5xx`, `400-499`."
    )


class ResponseEdits(Edits):
    """Changes to responses; an endpoint's as well as the proxy's own."""

    match: ResponseMatch | None = Field(
        default=None, description="Which responses; without it, all."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield the one header that the proxy writes after its filters."""
        yield from super().faults(given)
        yield from _written_later(given, _SERVER, "change it by the listener's 'server'")


_Step = Callable[[Headers, Any], None]


@implementer(IRequestFilter, IResponseFilter, IContextFilter)
class HeaderChanges:
    """Set, add, append, rename and remove headers."""

    class Options(api.Options):
        """Changes to requests, and to responses by their status."""

        one_or_several: ClassVar[frozenset[str]] = frozenset({"response"})

        request: RequestEdits = Field(default=RequestEdits(), description="Changes to the request.")
        response: Annotated[
            list[ResponseEdits],
            BeforeValidator(
                lambda value: value if isinstance(value, list) else [value],
                json_schema_input_type=ResponseEdits | list[ResponseEdits],
            ),
        ] = Field(
            default=[],
            description="Changes to the response, or a list of them, each for other statuses.",
        )

    def __init__(self, options: Options) -> None:
        self._context: Any = None
        self._request = _compile(options.request, self._clock, late=False)
        self._response = [
            (_status_table(edits.match), step)
            for edits in options.response
            for step in _compile(edits, self._clock, late=True)
        ]

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._context = context

    def _clock(self) -> Callable[[float], float]:
        context = self._context
        return lambda moment: moment - context.now() + context.time()

    def request(self, exchange: Any) -> None:
        """Part of ``IRequestFilter``."""
        steps = self._request
        if steps:
            headers = exchange.request.headers
            for step in steps:
                step(headers, exchange)

    def response(self, exchange: Any) -> None:
        """Part of ``IResponseFilter``."""
        steps = self._response
        if steps:
            response = exchange.response
            headers = response.headers
            status = response.status
            for statuses, step in steps:
                if statuses is None or status in statuses:
                    step(headers, exchange)


def _status_table(match: ResponseMatch | None) -> frozenset[int] | None:
    if match is None:
        return None
    found: set[int] = set()
    for text in match.status:
        parsed = _STATUSES.fullmatch(text)
        assert parsed is not None
        if parsed[1] is not None:
            found.update(range(int(parsed[1]) * 100, int(parsed[1]) * 100 + 100))
        else:
            found.update(range(int(parsed[2]), int(parsed[3] or parsed[2]) + 1))
    return frozenset(found)


def _compile(
    edits: Edits, clock: Callable[[], Callable[[float], float]], *, late: bool
) -> list[_Step]:
    """The steps of ``edits``, in their order."""

    def compiled(given: Mapping[str, str]) -> list[tuple[bytes, bytes | Value]]:
        values = []
        for name, text in given.items():
            try:
                values.append((name.encode(), compile_value(text, clock, late=late)))
            except Unfit as error:
                raise Unfit(f"{name}: {error.message}", error.suggestion) from None
        return values

    steps: list[_Step] = [_rename(old.encode(), new.encode()) for old, new in edits.rename.items()]
    if edits.remove or edits.set:
        steps.append(_remove_and_set(edits.remove, compiled(edits.set)))
    for make, given in (
        (_set_if_absent, edits.set_if_absent),
        (_append, edits.append),
        (_add, edits.add),
    ):
        steps += [make(name, value) for name, value in compiled(given)]
    return steps


def _field(name: bytes) -> Callable[[bytes], Any]:
    """What makes a field of this name of a value in which there are no control characters."""
    (empty,) = Headers.of([(name, b"")]).fields
    name, _, _, kind = empty

    def make(value: bytes) -> Any:
        value = value.strip(b" \t")
        return name, value, b"%b: %b\r\n" % (name, value), kind

    return make


def _rename(old: bytes, new: bytes) -> _Step:
    def step(headers: Headers, exchange: Any) -> None:
        values = headers.get_all(old)
        if values:
            headers.remove(new)
            headers.remove(old)
            for value in values:
                headers.add(new, value)

    return step


def _remove_and_set(removed: list[str], put: list[tuple[bytes, bytes | Value]]) -> _Step:
    """
    One look at the fields for all that are taken out or replaced. Values see them as they were.
    """
    names = frozenset(
        [name.encode() for name in removed if not name.endswith("*")] + [name for name, _ in put]
    )
    prefixes = tuple(name[:-1].encode() for name in removed if name.endswith("*"))
    fixed = Headers.of((name, value) for name, value in put if isinstance(value, bytes)).fields
    made = [(_field(name), value) for name, value in put if not isinstance(value, bytes)]

    def step(headers: Headers, exchange: Any) -> None:
        fields = headers.fields
        kept = [field for field in fields if field[0] not in names]
        if prefixes:
            kept = [field for field in kept if not field[0].startswith(prefixes)]
        kept += fixed
        for make, value in made:
            text = value(exchange)
            if text:
                kept.append(make(text))
        headers.fields = kept

    return step


def _set_if_absent(name: bytes, value: bytes | Value) -> _Step:
    put = _add(name, value)

    def step(headers: Headers, exchange: Any) -> None:
        if name not in headers:
            put(headers, exchange)

    return step


def _append(name: bytes, value: bytes | Value) -> _Step:
    def step(headers: Headers, exchange: Any) -> None:
        made = value if isinstance(value, bytes) else value(exchange)
        if made:
            headers.set(name, b", ".join([*filter(None, headers.get_all(name)), made]))

    return step


def _add(name: bytes, value: bytes | Value) -> _Step:
    if isinstance(value, bytes):
        (field,) = Headers.of([(name, value)]).fields
        return lambda headers, exchange: headers.fields.append(field)
    make, text = _field(name), value

    def step(headers: Headers, exchange: Any) -> None:
        made = text(exchange)
        if made:
            headers.fields.append(make(made))

    return step
