"""Where a listener's access log goes and what its lines are.

Law: a format is checked here only for its shape; what its operators mean is known to the room
that writes the lines, which compiles it before anything is bound.
"""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, closest, quoted

__all__ = ["AccessLog"]

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
    """One line for every request or connection."""

    later: ClassVar[frozenset[str]] = frozenset({"filter", "otlp", "rotate", "sample", "syslog"})

    path: Annotated[str, AfterValidator(_log_path)] = Field(
        description="The file, or `-` for standard output. SIGUSR1 reopens it."
    )
    format: Annotated[str, AfterValidator(_format)] = Field(
        default="text",
        description="`text`, `json`, or a line of your own with Envoy's command operators, such "
        "as `%START_TIME% %REQ(:METHOD)% %RESPONSE_CODE%`.",
    )
