"""Every exception that crosses from one room of the house to another.

Laws:
- Whatever meshproxy raises on purpose derives from `MeshproxyError`; anything else is a defect.
- A `Problem` always says where: a file, a line and a column (both counted from 1) and a path.
- This module imports the standard library only, so that every floor may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = [
    "AlreadyAnswered",
    "BodyTooLarge",
    "CheckFailed",
    "ConfigError",
    "FetchFailed",
    "ListenError",
    "MeshproxyError",
    "PluginError",
    "Problem",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or doubtful, in a configuration.

    `severity` is "error" (nothing starts) or "warning" (it starts, and probably does not do what
    was meant). `file` is the name the text was loaded under; `line` and `column` count from 1, the
    column in characters. `path` is where in the document, as in `listeners.web.http.routes[2].to`,
    and is empty for the document as a whole. `suggestion` is what was probably meant, or None.
    """

    severity: Literal["error", "warning"]
    file: str
    line: int
    column: int
    path: str
    message: str
    suggestion: str | None = None

    def __str__(self) -> str:
        """Return `file:line:column: path: message; did you mean 'x'?`, as compilers write it."""
        parts = [f"{self.file}:{self.line}:{self.column}"]
        if self.path:
            parts.append(self.path)
        message = self.message
        if self.suggestion is not None:
            message += f"; did you mean '{self.suggestion}'?"
        parts.append(f"warning: {message}" if self.severity == "warning" else message)
        return ": ".join(parts)


class MeshproxyError(Exception):
    """What meshproxy raises on purpose; the message is written for the person who runs it."""


class ConfigError(MeshproxyError):
    """A configuration that cannot be used.

    `problems` holds everything that was found, in the order of the text, never empty.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class ListenError(MeshproxyError):
    """A listener that could not be bound.

    `listener` is its name in the configuration, `address` what it was to bind (as text), `reason`
    what the system answered.
    """

    def __init__(self, listener: str, address: str, reason: str) -> None:
        super().__init__(f"listener '{listener}' cannot listen on {address}: {reason}")
        self.listener = listener
        self.address = address
        self.reason = reason


class PluginError(MeshproxyError):
    """A plugin that is missing, there twice, or does not provide what it promises."""


class CheckFailed(MeshproxyError):
    """A health check did not pass; the text says why, in a few words."""


class AlreadyAnswered(MeshproxyError):
    """A filter answered an exchange that has its response already, or is over."""


class BodyTooLarge(MeshproxyError):
    """A body that a filter wanted whole is longer than the bound it gave."""


class FetchFailed(MeshproxyError):
    """A request beside an exchange got no whole answer; the text is one word that says why."""
