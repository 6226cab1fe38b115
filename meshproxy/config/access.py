"""Where a listener's access log goes and what its lines are.

Law: a format is checked here only for its shape; what its operators mean is known to the room
that writes the lines, which compiles it before anything is bound.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from meshproxy.config.filters import AccessLogPlugin
from meshproxy.config.section import Section, written
from meshproxy.config.unfit import Unfit, closest, quoted

__all__ = ["AccessLog", "AccessLogs", "same_labels"]

_OPERATOR = re.compile(r"%%|%[A-Z][A-Z0-9_]*(?:\([^()]*\))?(?::\d{1,5})?%")


def _log_path(value: str) -> str:
    if not value or "\0" in value:
        raise Unfit("the path of a file is needed, or '-' for standard output")
    if value.endswith("/"):
        raise Unfit(f"a file is needed, and {quoted(value)} is a directory")
    return value


def _format(value: str) -> str:
    """Return `text`, `json`, or a line whose every `%` belongs to an operator or to `%%`."""
    if value in ("text", "json"):
        return value
    if "%" not in value:
        raise Unfit(
            f"text, json or a line with %OPERATORS% is expected, not {quoted(value)}",
            closest(value, ("text", "json")),
        )
    at = 0
    while (at := value.find("%", at)) >= 0:
        match = _OPERATOR.match(value, at)
        if match is None:
            raise Unfit(
                f"the '%' at character {at + 1} begins no operator such as %RESPONSE_CODE% or "
                "%REQ(USER-AGENT)%; a plain percent sign is written %%"
            )
        at = match.end()
    return value


class AccessLog(Section):
    """One line for every request or connection, or what a plugin makes of it."""

    exactly_one: ClassVar[tuple[str, ...]] = ("path", "plugin")

    later: ClassVar[frozenset[str]] = frozenset({"filter", "otlp", "rotate", "sample", "syslog"})

    path: Annotated[str, AfterValidator(_log_path)] | None = Field(
        default=None, description="The file, or `-` for standard output. SIGUSR1 reopens it."
    )
    plugin: AccessLogPlugin | None = Field(
        default=None,
        description="A plugin of the kind `access_log`: its name, or `NAME: {options}`.",
    )
    format: Annotated[str, AfterValidator(_format)] = Field(
        default="text",
        description="`text`, `json`, or a line of your own with Envoy's command operators, such "
        "as `%START_TIME% %REQ(:METHOD)% %RESPONSE_CODE%`.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a format that nobody writes."""
        yield from super().faults(given)
        if "plugin" in given and "format" in given:
            yield Unfit("'format' does nothing beside 'plugin'", at=("format",))


def _several(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


AccessLogs = Annotated[
    list[AccessLog],
    Field(min_length=1, max_length=16),
    BeforeValidator(_several, json_schema_input_type=AccessLog | list[AccessLog]),
]
"""An access log, or a list of them: each gets every record."""


def same_labels(given: Mapping[str, Any]) -> Iterator[Unfit]:
    """Yield plugins in `access_log` that have one name, so that their numbers would be mixed."""
    logs = given.get("access_log")
    seen: set[str] = set()
    for index, log in enumerate(logs if isinstance(logs, list) else ()):
        label = getattr(written(log).get("plugin"), "label", "")
        if label and label in seen:
            yield Unfit(
                f"'{label}' is there already; give one a name with 'as'",
                at=("access_log", index, "plugin"),
            )
        seen.add(label)
