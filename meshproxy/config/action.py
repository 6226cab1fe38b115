"""What a route does with a request besides sending it on, and what it changes on the way.

Law: headers that frame a message or belong to one connection (RFC 9110 section 7.6.1) are the
proxy's own: no configuration sets, adds or removes them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from meshproxy.config.fields import HeaderName, HeaderText, HostName, PathText, Regex
from meshproxy.config.section import Section, written
from meshproxy.config.unfit import Unfit

__all__ = [
    "FRAMING",
    "HeaderEdits",
    "Redirect",
    "RequestName",
    "Respond",
    "Rewrite",
    "same_names",
]

FRAMING = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that frame a message or belong to one connection, beside ``host``."""


def _own_header(name: str) -> str:
    """Return `name` (lower case) unless the proxy alone decides on it."""
    if name == "host":
        raise Unfit("the Host header is changed by 'host_rewrite'")
    return _not_framing(name)


def _not_framing(name: str) -> str:
    if name in FRAMING:
        raise Unfit(f"'{name}' frames the message, so the proxy alone sets it")
    return name


EditableName = Annotated[HeaderName, AfterValidator(_own_header)]
RequestName = Annotated[HeaderName, AfterValidator(_not_framing)]
"""A header of a request that the proxy makes by itself: a health check's, a discovery's."""


def same_names(given: Mapping[str, Any], key: str) -> Iterator[Unfit]:
    """Yield a fault for each header of `given[key]` that differs from an earlier one by case."""
    seen: dict[str, str] = {}
    for name in written(given.get(key)):
        earlier = seen.setdefault(name.lower(), name)
        if earlier != name:
            yield Unfit(
                f"this is the same header as '{earlier}'; case does not matter", at=(key, name)
            )


class HeaderEdits(Section):
    """Changes to headers: `remove` is done first, then `set`, then `add`."""

    later: ClassVar[frozenset[str]] = frozenset({"append", "rename", "set_if_absent"})

    set: dict[EditableName, HeaderText] = Field(
        default={}, description="Headers that get this value in place of any they had."
    )
    add: dict[EditableName, HeaderText] = Field(
        default={}, description="Headers that get this value beside those they had."
    )
    remove: list[EditableName] = Field(default=[], description="Headers that are taken out.")

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield headers that are written twice, or both removed and set."""
        yield from super().faults(given)
        yield from same_names(given, "set")
        yield from same_names(given, "add")
        names = given.get("remove")
        put = {name.lower() for name in written(given.get("set"))}
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and name.lower() in put:
                yield Unfit(
                    f"'{name}' is set as well, which replaces it anyway", at=("remove", index)
                )


class Respond(Section):
    """An answer that is given without asking any endpoint."""

    later: ClassVar[frozenset[str]] = frozenset({"body_file", "file", "json"})

    status: int = Field(default=200, ge=200, le=599, description="The status code, 200 to 599.")
    body: str = Field(default="", description="The body, sent as UTF-8.")
    headers: dict[EditableName, HeaderText] = Field(
        default={}, description="Headers of the answer; `content-type` is text/plain otherwise."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a body where there can be none (RFC 9110 section 6.4.1)."""
        yield from super().faults(given)
        yield from same_names(given, "headers")
        if given.get("status") in (204, 205, 304) and given.get("body"):
            yield Unfit(f"a response {given['status']} has no body", at=("body",))


def _scheme(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*", value):
        hint = value.removesuffix("://").removesuffix(":").lower()
        raise Unfit(
            f"a scheme such as https is expected, not '{value[:64]}'",
            hint if re.fullmatch(r"[a-z][a-z0-9+.-]{1,20}", hint) else None,
        )
    return value


class Redirect(Section):
    """Sends the client to the same place but for what is written here."""

    at_most_one: ClassVar[tuple[tuple[str, ...], ...]] = (("https", "scheme"), ("path", "prefix"))
    later: ClassVar[frozenset[str]] = frozenset({"regex"})

    status: Literal[301, 302, 303, 307, 308] = Field(
        default=301, description="301 or 308 for ever, 302 or 307 for now, 303 to GET elsewhere."
    )
    https: bool = Field(default=False, description="Go to https.")
    scheme: Annotated[str, AfterValidator(_scheme)] | None = Field(
        default=None, description="Go to this scheme."
    )
    host: HostName | None = Field(default=None, description="Go to this host.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Go to this port.")
    path: PathText | None = Field(default=None, description="Go to this path.")
    prefix: PathText | None = Field(
        default=None, description="Put this in place of what match.prefix or match.path matched."
    )
    strip_query: bool = Field(default=False, description="Leave the query out.")

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a redirect that leads to itself."""
        yield from super().faults(given)
        changes = cls.model_fields.keys() - {"status"}
        if all(given.get(key) is None or given[key] is False for key in changes):
            yield Unfit("nothing is changed, so the client would come back for ever")


class Rewrite(Section):
    """Changes the path of the request that is sent on; its query stays."""

    exactly_one: ClassVar[tuple[str, ...]] = ("prefix", "path", "regex")

    prefix: PathText | None = Field(
        default=None, description="Put this in place of what match.prefix or match.path matched."
    )
    path: PathText | None = Field(default=None, description="The whole path.")
    regex: Regex | None = Field(
        default=None,
        description="A regular expression (Python's); every place it matches gets `substitution`.",
    )
    substitution: str | None = Field(
        default=None, description="What `regex` is replaced by; `\\1` is its first group."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a `regex` and `substitution` that do not fit together."""
        yield from super().faults(given)
        regex, substitution = given.get("regex"), given.get("substitution")
        if substitution is None:
            if regex is not None:
                yield Unfit("'regex' needs 'substitution', which may be empty", at=("regex",))
            return
        if "regex" not in given:
            yield Unfit("'substitution' does nothing without 'regex'", at=("substitution",))
        if not isinstance(substitution, str):
            return
        if re.fullmatch(r'[!"$->@-~]*', substitution) is None:
            yield Unfit(
                "what goes into a path is written percent-encoded, with no '?' or '#'",
                at=("substitution",),
            )
        elif isinstance(regex, str):
            problem = _template_problem(regex, substitution)
            if problem is not None:
                yield Unfit(f"it does not fit 'regex': {problem}", at=("substitution",))


def _template_problem(regex: str, substitution: str) -> str | None:
    """Return why `substitution` cannot be used with `regex`; None too when the regex is bad."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            pattern = re.compile(regex.encode())
        except (re.error, OverflowError, RecursionError, ValueError):
            return None  # the field itself reports it
    try:
        pattern.sub(substitution.encode(), b"")
    except re.error as error:
        return str(error)
    except IndexError as error:
        return str(error)
    return None
