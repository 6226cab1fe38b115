"""
Endpoints from a file, which is read again when it changed.

The laws it keeps:

- A file that is missing, unreadable or wrong takes nothing away: the last good set stays, and the
  failure is told once for each state of the file, not at every look.
- A file that was replaced by renaming another over it is seen whole, before or after. (One that
  is written in place may be seen half; what then is no roster counts as a failure, until the next
  look.)
- Only regular files are opened, without waiting, and at most 4 MiB are read.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python import log
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy.config.roster import LONGEST_ROSTER
from meshproxy.errors import ConfigError
from meshproxy.interfaces import IDiscovery
from meshproxy.upstream.discovery.listing import read_aside, read_listing, reason_of
from meshproxy.upstream.endpoint import EndpointSpec

#: Seconds between two looks, unless the configuration says otherwise.
INTERVAL = 1.0


@implementer(IDiscovery)
class FileDiscovery:
    """The endpoints that the file at ``path`` lists, looked at every ``interval`` seconds."""

    def __init__(self, reactor: Any, path: str, interval: float | None = None) -> None:
        self._reactor = reactor
        self._path = path
        self._interval = interval or INTERVAL
        self._update: Any = None
        self._failed: Any = None
        self._call: Any = None
        self._reading: Deferred[None] | None = None
        #: What the file was at the last look: its stat, or an errno.
        self._seen: object = None
        self._specs: tuple[EndpointSpec, ...] | None = None
        self._error = ""
        self._last_error = ""
        self._last_success: float | None = None

    def start(self, update: Any, failed: Any) -> None:
        """Begin: the file is read within this call."""
        self._update = update
        self._failed = failed
        try:
            content = self._fresh()
            if content is not None:
                self._good(read_listing(content, self._path, True))
        except Exception:
            self._bad(Failure())
        self._again()

    def stop(self) -> None:
        """End for good."""
        self._update = self._failed = None
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._reading is not None:
            self._reading.cancel()

    def describe(self) -> dict[str, Any]:
        """What the admin shows; ``last_success`` is a Unix time."""
        return {
            "kind": "file",
            "where": self._path,
            "endpoints": None if self._specs is None else len(self._specs),
            "last_success": self._last_success,
            "last_error": self._last_error,
        }

    def _look(self) -> None:
        self._call = None
        try:
            content = self._fresh()
        except Exception:
            self._bad(Failure())
            content = None
        if content is None:
            self._again()
            return
        reading = read_aside(self._reactor, content, self._path, True)
        self._reading = reading.addCallback(self._good)
        self._reading.addErrback(self._bad)
        self._reading.addBoth(self._again)

    def _again(self, _: object = None) -> None:
        self._reading = None
        if self._update is not None:
            self._call = self._reactor.callLater(self._interval, self._look)

    def _fresh(self) -> bytes | None:
        """The content; None when it is what it was. Raises OSError, once for the same."""
        try:
            if _print(os.stat(self._path)) == self._seen:
                return None
            # A pipe without a writer would be waited for, were it opened in the usual way.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            seen = getattr(error, "errno", str(error))
            if seen == self._seen:
                return None
            self._seen = seen
            raise
        try:
            found = os.fstat(descriptor)
            self._seen = _print(found)
            if not stat.S_ISREG(found.st_mode):
                raise OSError("it is no regular file")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(LONGEST_ROSTER + 1)
        finally:
            os.close(descriptor)

    def _good(self, specs: tuple[EndpointSpec, ...]) -> None:
        if self._update is None:
            return
        self._last_success = time.time()
        if specs == self._specs and not self._error:
            return
        self._specs = specs
        self._error = ""
        self._update(specs)

    def _bad(self, failure: Failure) -> None:
        """The file cannot be used, or whoever takes the endpoints has a defect."""
        if self._update is None:
            return
        error = failure.value
        if isinstance(error, ConfigError):
            self._error = reason_of(error)
        elif isinstance(error, OSError):
            self._error = f"{self._path}: {error.strerror or error}"
        else:
            log.err(failure, f"discovery by the file {self._path}")
            self._error = f"{self._path}: {failure.getErrorMessage()}"
        self._last_error = self._error
        self._failed(self._error)


def _print(found: os.stat_result) -> tuple[int, ...]:
    """What tells one state of a file from another."""
    return (found.st_mtime_ns, found.st_ino, found.st_size, found.st_dev)
