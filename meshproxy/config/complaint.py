"""What a YAML parser complains of, in words that say what to do about it.

Law: every complaint gives a place inside the text, and a message for someone who has never read
the YAML specification.
"""

from __future__ import annotations

import re

from ruamel.yaml.error import MarkedYAMLError, StreamMark
from ruamel.yaml.reader import ReaderError

__all__ = ["explain"]

_FOUND = re.compile(r"found character '(.)'", re.DOTALL)


def explain(error: Exception, text: str) -> tuple[int, int, str]:
    """Return the line and column (from 1) of `error` in `text`, and a message."""
    if isinstance(error, ReaderError):
        line, column = _place_of(text, error.position)
        return line, column, f"the character U+{_code(error.character):04X} cannot be in YAML"
    if not isinstance(error, MarkedYAMLError):
        return 1, 1, f"not valid YAML: an escape such as \\U names no character ({error})"
    mark, message = _message(error, text)
    return mark.line + 1, mark.column + 1, message


def _code(character: object) -> int:
    return ord(character) if isinstance(character, str) else int(str(character))


def _place_of(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1


def _message(error: MarkedYAMLError, text: str) -> tuple[StreamMark, str]:
    """Return where and what, for the complaints of ruamel.yaml's scanner and parser."""
    problem = str(error.problem or "")
    context = str(error.context or "")
    here = error.problem_mark or error.context_mark or StreamMark("", 0, 0, 0)
    begin = error.context_mark or here
    if (found := _FOUND.search(problem)) is not None or "\\t" in problem:
        if found is None or found[1] in ("\t", "\\"):
            return here, "a tab cannot begin a line or a value in YAML; use spaces"
        return here, f"a value cannot begin with '{found[1]}'; put it in quotes"
    if "unexpected end of stream" in problem:
        return begin, "this quote is never closed"
    if "<stream end>" in problem:
        return here, f"the text ends here, inside what begins in line {begin.line + 1}"
    if context == "while scanning an alias":
        return here, "a value that begins with '*' goes in quotes"
    if problem.startswith("expected ") and (closed := _closed_before(text, here)):
        return here, (
            f"nothing can follow the closing {closed} here; quote a whole value such as '[::1]:80'"
        )
    if "expected ',' or ']'" in problem:
        return here, f"',' or ']' is expected in the list that begins in line {begin.line + 1}"
    if "expected ',' or '}'" in problem:
        return here, f"',' or '}}' is expected in the mapping that begins in line {begin.line + 1}"
    if "expected the node content" in problem:
        mark = problem.rpartition("found ")[2].strip("'\"")
        return here, f"a value is expected, not {mark!r}; between braces it goes in quotes"
    if "mapping values are not allowed" in problem:
        return here, (
            "this ':' cannot be here: a value that holds ': ' goes in quotes, a key's ':' is "
            "followed by a space, and the keys of one mapping begin in the same column"
        )
    if "could not find expected ':'" in problem:
        return begin, "a ':' and a value are missing after this key"
    if "expected <block end>" in problem:
        return here, (
            "this does not belong to what is above it: the keys of one mapping, and the dashes of "
            "one list, begin in the same column"
        )
    if "unknown escape character" in problem or "escape sequence" in problem:
        return here, "no such escape in double quotes; use single quotes to keep a '\\'"
    return here, "not valid YAML: " + ": ".join(part for part in (context, problem) if part)


def _closed_before(text: str, mark: StreamMark) -> str:
    """Return the bracket or quote that ends right before `mark` in its line, or nothing."""
    lines = text.splitlines()
    before = lines[mark.line][: mark.column].rstrip() if mark.line < len(lines) else ""
    return before[-1:] if before[-1:] in {"]", "}", '"', "'"} else ""
