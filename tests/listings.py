"""
The commands that the documentation shows, run as a reader would run them.

Laws:

- A page is run from its first command to its last in one place: a folder with ``docs/examples``
  in it (or that folder inside it), in a network namespace of its own, so that the ports that a
  page names are free and nothing leaves the machine.
- A line that begins with ``$`` is a command; the lines below are what it prints, where ``...``
  stands for anything. A command that ends in ``&``, or runs ``twistd -n``, goes on beside the
  others; the next one waits until it listens. A new ``twistd -n`` ends the one before.

Run as ``python -m tests.listings`` inside such a namespace, with the commands as JSON on its
standard input.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.harness import PATIENCE, ROOT, environment

_POLL = 0.02


@dataclass(frozen=True, slots=True)
class Command:
    """A command and what it is to print."""

    line: str
    expected: str

    @property
    def goes_on(self) -> bool:
        """Whether it runs beside the next ones."""
        checking = "--check" in self.line
        return self.line.endswith("&") or ("twistd -n" in self.line and not checking)


def blocks(text: str, language: str) -> list[str]:
    """The listings of a language, in reStructuredText or Markdown, without their indentation."""
    fenced = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(
        rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", text, re.MULTILINE
    )
    return [*fenced, *(re.sub(r"^   ", "", block, flags=re.MULTILINE) for block in indented)]


def commands(text: str) -> list[Command]:
    """The commands of a page's ``console`` listings, in order."""
    found: list[Command] = []
    for block in blocks(text, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, printed = part.partition("\n")
            found.append(Command(line, printed.strip("\n")))
    return found


def matches(expected: str, printed: str) -> bool:
    """Whether the output is what the page says; ``...`` is anything, also several lines."""
    pattern = "".join(".*" if part == "..." else re.escape(part) for part in _parts(expected))
    return re.fullmatch(pattern, printed.replace("\r", "").strip("\n"), re.DOTALL) is not None


def _parts(expected: str) -> list[str]:
    return re.split(r"(\.\.\.)", expected)


def namespaces() -> bool:
    """Whether this machine lets us make a network namespace, and has what the pages use."""
    if not all(shutil.which(tool) for tool in ("unshare", "ip", "curl")):
        return False
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "set", "lo", "up"], capture_output=True, check=False
    )
    return tried.returncode == 0


def run_apart(
    page: list[Command], directory: Path, within: str = "."
) -> subprocess.CompletedProcess[str]:
    """
    Run the commands in a network namespace; the output says what failed.

    ``directory`` gets a copy of ``docs/examples``; ``within`` it is where the commands are run.
    """
    shutil.copytree(ROOT / "docs" / "examples", directory / "docs" / "examples")
    # ``twistd`` on a page is that of the environment the tests run in.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        ["unshare", "--net", sys.executable, "-m", "tests.listings"],
        input=json.dumps([asdict(command) for command in page]),
        cwd=directory / within,
        env={**environment(), "PATH": path},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )


def _listening() -> frozenset[str]:
    """The local addresses in state LISTEN (0A) of this namespace's /proc/net/tcp."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return frozenset(field[1] for field in fields if field[3] == "0A")


class _Page:
    """A page being run; a failure is raised as AssertionError."""

    def __init__(self) -> None:
        self._proxy: subprocess.Popen[bytes] | None = None
        self._beside: list[subprocess.Popen[bytes]] = []

    def run(self, page: list[Command]) -> None:
        """Run the commands, and end what went on beside them."""
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        try:
            for command in page:
                if command.goes_on:
                    self._begin(command.line)
                else:
                    self._compare(command)
        finally:
            for process in self._beside:
                self._end(process)

    def _begin(self, line: str) -> None:
        line = line.removesuffix("&").strip()
        is_proxy = "twistd" in line
        if is_proxy and self._proxy is not None:
            self._end(self._proxy)
        before = _listening()
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"], stdin=subprocess.DEVNULL, stdout=sys.stderr
        )
        self._beside.append(process)
        if is_proxy:
            self._proxy = process
        deadline = time.monotonic() + PATIENCE
        while _listening() == before:
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"it does not listen: {line}")
            time.sleep(_POLL)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            process.terminate()
            process.wait(PATIENCE)

    def _compare(self, command: Command) -> None:
        ended = subprocess.run(
            ["bash", "-c", command.line],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if not matches(command.expected, ended.stdout):
            raise AssertionError(
                f"$ {command.line}\n--- expected\n{command.expected}\n--- printed\n{ended.stdout}"
            )


if __name__ == "__main__":
    _Page().run([Command(**command) for command in json.load(sys.stdin)])
