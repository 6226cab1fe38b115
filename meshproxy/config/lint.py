"""What is allowed and probably not meant.

Law: a warning never stops anything, and is only looked for in a configuration without errors.
"""

from __future__ import annotations

from meshproxy.config.model import Configuration
from meshproxy.config.reader import Node
from meshproxy.errors import Problem

__all__ = ["lint"]


def lint(configuration: Configuration, root: Node, filename: str) -> tuple[Problem, ...]:
    """Return the warnings about a valid configuration, in the order of its text."""
    return ()
