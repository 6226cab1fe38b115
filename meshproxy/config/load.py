"""The way from a text to a configuration.

Law: the steps are these and in this order: read, have the directories of plugins searched, examine
the keys (and find the filters), validate the values, check what holds between sections, and only
when nothing is wrong, look for what is doubtful.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

from pydantic import ValidationError

from meshproxy.config.between import check_between
from meshproxy.config.examine import examine, locate
from meshproxy.config.filters import search_directories
from meshproxy.config.lint import lint
from meshproxy.config.model import Configuration
from meshproxy.config.place import Path, render
from meshproxy.config.problems import report
from meshproxy.config.reader import LONGEST_TEXT, read
from meshproxy.config.timeouts import spread_timeouts
from meshproxy.errors import ConfigError, Problem

__all__ = ["Loaded", "load", "load_file", "search_plugins"]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration that can be used, the warnings about it, and the text it came from."""

    configuration: Configuration
    warnings: tuple[Problem, ...]
    text: str
    filename: str

    def problem(self, path: Path, message: str) -> Problem:
        """Return an error at the value of `path`, for what only another room can judge.

        Where the path leads nowhere (what it names was left to its default), the place is that
        of the innermost part that is written.
        """
        line, column, there = locate(read(self.text, self.filename), path)
        shown: list[str | int] = []
        for step in path:
            if there[:1] == (step,):
                there = there[1:]
            elif step == 0 and there:
                continue  # one item in place of a list of one
            shown.append(step)
        return Problem("error", self.filename, line, column, render(tuple(shown)), message)


def load(text: str, filename: str) -> Loaded:
    """Return the configuration that `text` holds; `filename` is only for messages.

    Raises `ConfigError` with every error, in the order of the text.
    """
    root = read(text, filename)
    missing = search_directories(root, filename)
    examined = examine(root, Configuration, filename)
    examined.problems += missing
    configuration: Configuration | None = None
    try:
        configuration = Configuration.model_validate(examined.data, context={"faults_apart": True})
    except ValidationError as error:
        report(error, root, examined)
    check_between(root, examined)
    if examined.problems or configuration is None:
        ordered = sorted(dict.fromkeys(examined.problems), key=lambda p: (p.line, p.column))
        raise ConfigError(tuple(ordered))
    configuration = spread_timeouts(configuration)
    return Loaded(configuration, lint(configuration, root, filename), text, filename)


def load_file(path: str | os.PathLike[str]) -> Loaded:
    """Return the configuration that the file at `path` (UTF-8) holds.

    Raises `ConfigError`, also for a file that cannot be read, is too long, or is no UTF-8.
    """
    name = os.fspath(path)
    return load(_text_of(name), name)


def search_plugins(path: str | os.PathLike[str]) -> None:
    """Have the directories of `plugins` in the file at `path` searched, whatever else is in it.

    Raises `ConfigError` for a file that cannot be read and for a directory that is not there.
    """
    name = os.fspath(path)
    problems = search_directories(read(_text_of(name), name), name)
    if problems:
        raise ConfigError(tuple(problems))


def _text_of(name: str) -> str:
    """Return the text of a file. Raises `ConfigError`."""
    try:
        with open(name, "rb") as file:
            content = file.read(LONGEST_TEXT + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        _refuse(name, 1, 1, f"the file cannot be read: {reason}")
    if len(content) > LONGEST_TEXT:
        _refuse(name, 1, 1, f"the file is longer than {LONGEST_TEXT >> 20} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        _refuse(name, line, column, "a configuration is written in UTF-8, and this byte is not")


def _refuse(name: str, line: int, column: int, message: str) -> NoReturn:
    raise ConfigError((Problem("error", name, line, column, "", message),)) from None
