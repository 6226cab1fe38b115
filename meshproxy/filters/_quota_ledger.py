"""
Where quotas are kept: counts by name, period and key, in a file of SQLite.

The law it keeps: the file is only ever added to (``used = used + …``), in one transaction a batch,
so that several processes on one file, each with its own part of the counts, never undo each
other's, and a process that is killed loses what it had not handed over and nothing else. A batch
is written once or not at all. Everything here may block; it is called in a thread, one call at a
time.

Keys are as the filter gives them: hashes, unless its option ``show_keys`` says otherwise. The file
is readable by its owner alone.
"""

from __future__ import annotations

import os
import sqlite3
from threading import Lock

__all__ = ["PASSING", "Batch", "Counts", "Ledger", "Period"]

Period = tuple[int, int]
"""Start and end of a period, in seconds since 1970."""

Counts = dict[Period, dict[bytes, int]]

PASSING = frozenset(
    (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
)
"""Errors of SQLite that may be over later: whoever gets one keeps what he has, and tries again."""

#: Seconds that a statement waits for another process.
_PATIENCE = 2.0

#: How long counts are kept after their period has ended, in seconds.
_KEPT = 86_400

_VERSION = 1
_TABLE = """
CREATE TABLE IF NOT EXISTS quota (
    name TEXT NOT NULL,
    start INTEGER NOT NULL,
    key BLOB NOT NULL,
    until INTEGER NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (name, start, key)
) WITHOUT ROWID
"""
_ADD = """
INSERT INTO quota (name, start, key, until, used) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (name, start, key) DO UPDATE SET used = used + excluded.used
RETURNING used
"""


class Batch:
    """What is to be added. ``settled``: it was written, or withdrawn before it could be."""

    __slots__ = ("counts", "settled")

    def __init__(self, counts: Counts) -> None:
        self.counts = counts
        self.settled = False


class Ledger:
    """
    The counts called ``name`` in the file ``path``, which is made if it is not there.

    Methods raise ``sqlite3.Error``, and ``OSError`` for a file that cannot be made.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._file: sqlite3.Connection | None = None
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"Ledger({self._path!r}, {self._name!r})"

    def load(self, period: Period, most: int) -> dict[bytes, int]:
        """The counts of a period; if there are more than ``most``, the largest ones."""
        with self._lock:
            return dict(
                self._open().execute(
                    "SELECT key, used FROM quota WHERE name = ? AND start = ? "
                    "ORDER BY used DESC LIMIT ?",
                    (self._name, period[0], most),
                )
            )

    def add(self, batch: Batch) -> Counts:
        """Add a batch. Returns what each of its keys has now, with other processes' parts."""
        with self._lock:
            if batch.settled:
                return {}
            file = self._open()
            file.execute("BEGIN IMMEDIATE")
            try:
                totals: Counts = {
                    period: {
                        key: file.execute(
                            _ADD, (self._name, period[0], key, period[1], number)
                        ).fetchone()[0]
                        for key, number in counts.items()
                    }
                    for period, counts in batch.counts.items()
                }
                file.execute("COMMIT")
            except BaseException:
                if file.in_transaction:
                    file.execute("ROLLBACK")
                raise
            batch.settled = True
            return totals

    def withdraw(self, batch: Batch) -> bool:
        """Wait for whoever writes; whether the batch was not written, and now never will be."""
        with self._lock:
            pending, batch.settled = not batch.settled, True
            return pending

    def prune(self, now: float) -> None:
        """Forget periods, of any name, that ended a day before ``now``."""
        with self._lock:
            self._open().execute("DELETE FROM quota WHERE until < ?", (int(now) - _KEPT,))

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> sqlite3.Connection:
        if self._file is not None:
            return self._file
        # Made here, for its mode: SQLite gives its companions the same.
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # One thread at a time, by the lock, but not always the same one.
        file = sqlite3.connect(
            self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
        )
        try:
            file.execute("PRAGMA journal_mode = WAL")
            # In WAL a crash of the process loses nothing then, one of the machine the last seconds.
            file.execute("PRAGMA synchronous = NORMAL")
            version = file.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(
                    f"{self._path} was written by another version of meshproxy ({version})"
                )
            file.execute(_TABLE)
            if version != _VERSION:
                file.execute(f"PRAGMA user_version = {_VERSION}")
        except BaseException:
            file.close()
            raise
        self._file = file
        return file
