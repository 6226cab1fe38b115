"""
Stored responses in files.

The law it keeps: a file is written whole under another name and then renamed, never changed, and
read with its checksums verified, so that a crash leaves old files, new files and rubbish, and
rubbish is told and removed. All of it is done in a thread. The files together take no more than
they may (a file counts at least a block), writes that wait are bounded, and one directory is one
cache's: another process that wants it does not start, another cache of this process takes it over.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshproxy.filters._cache_policy import Freshness
from meshproxy.filters._cache_store import Entry, Line

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

__all__ = ["Broken", "Disk", "pack", "scan", "unpack", "unpack_head", "write"]

#: Bytes that a file counts at least: file systems give no less.
BLOCK = 4096
#: Bytes of bodies that may wait to be written; what comes then stays in memory alone.
PENDING = 16 << 20
#: Entries of the index that are taken over in one turn of the reactor at the start.
SLICE = 256

_MAGIC = b"mpcache1"
_HEAD = struct.Struct(">8sIIII")  # magic, bytes of the head, its CRC, bytes of the body, its CRC
_LONGEST_HEAD = 1 << 20
_SUFFIX = ".response"
_LOCK = "lock"


class Broken(Exception):
    """A file that is not a whole stored response."""


def pack(entry: Entry, names: tuple[bytes, ...]) -> bytes:
    """The bytes of a file for a warm entry whose resource varies by ``names``."""
    head = json.dumps(
        {
            "key": entry.key.decode("latin-1"),
            "names": [name.decode("latin-1") for name in names],
            "values": [None if v is None else v.decode("latin-1") for v in entry.values],
            "status": entry.status,
            "fields": [
                [f[0].decode("latin-1"), f[1].decode("latin-1"), f[3]] for f in entry.fields or ()
            ],
            "age": entry.age,
            "wall": entry.wall,
            "fresh": [
                entry.lifetime,
                entry.always_ask,
                entry.may_be_stale,
                entry.while_revalidate,
                entry.if_error,
            ],
        }
    ).encode()
    body = entry.body or b""
    return b"".join(
        (
            _HEAD.pack(_MAGIC, len(head), zlib.crc32(head), len(body), zlib.crc32(body)),
            head,
            body,
        )
    )


def _prefix(data: bytes) -> tuple[int, int, int, int]:
    if len(data) < _HEAD.size:
        raise Broken("too short")
    magic, length, crc, body, body_crc = _HEAD.unpack_from(data)
    if magic != _MAGIC or length > _LONGEST_HEAD:
        raise Broken("not a stored response")
    return length, crc, body, body_crc


def unpack_head(data: bytes, size: int) -> tuple[Entry, tuple[bytes, ...]]:
    """
    The entry (cold) and the names that it varies by, from the beginning of a file of ``size``
    bytes. Raises :class:`Broken`.
    """
    length, crc, body, _ = _prefix(data)
    head = data[_HEAD.size : _HEAD.size + length]
    if len(head) != length or zlib.crc32(head) != crc or _HEAD.size + length + body != size:
        raise Broken("cut or changed")
    try:
        told = json.loads(head)
        fields: list[Line] = []
        for name_text, value_text, kind in told["fields"]:
            name, value = name_text.encode("latin-1"), value_text.encode("latin-1")
            fields.append((name, value, b"%b: %b\r\n" % (name, value), int(kind)))
        values = tuple(None if v is None else v.encode("latin-1") for v in told["values"])
        entry = Entry(
            told["key"].encode("latin-1"),
            values,
            int(told["status"]),
            fields,
            b"",
            Freshness(*told["fresh"]),
            float(told["age"]),
            0.0,
            float(told["wall"]),
        )
        names = tuple(name.encode("latin-1") for name in told["names"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Broken("not a stored response") from error
    entry.length = body
    entry.size += body
    entry.body = None
    return entry, names


def unpack(data: bytes) -> tuple[Entry, bytes]:
    """The entry of a whole file, with its fields, and its body. Raises :class:`Broken`."""
    entry, _ = unpack_head(data, len(data))
    length, _, size, crc = _prefix(data)
    body = data[_HEAD.size + length :]
    if len(body) != size or zlib.crc32(body) != crc:
        raise Broken("the body is not what was written")
    return entry, body


def write(path: str, data: bytes) -> None:
    """Write a file that is there whole, or not at all. Raises ``OSError``."""
    temporary = path + ".tmp"
    try:
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "wb") as stream:
            stream.write(data)
        os.replace(temporary, path)
    except OSError:
        remove(temporary)
        raise


def remove(path: str) -> None:
    """Remove a file; one that is not there, or cannot be removed, is left at that."""
    try:
        os.unlink(path)
    except OSError:
        pass


def read(path: str) -> tuple[Entry, bytes]:
    """Read a whole file. Raises :class:`Broken`, also where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return unpack(stream.read())
    except OSError as error:
        raise Broken("it cannot be read") from error


Found = tuple[str, int, Entry, tuple[bytes, ...]]


def scan(directory: str, files: int) -> tuple[list[Found], int]:
    """
    The responses in a directory, the oldest first, as (name, bytes, cold entry, names); and how
    many files were removed: rubbish, and what is more than ``files``.
    """
    there: list[tuple[float, str, int]] = []
    removed = 0
    with os.scandir(directory) as listing:
        for item in listing:
            if item.name.endswith(_SUFFIX) and item.is_file(follow_symlinks=False):
                facts = item.stat(follow_symlinks=False)
                there.append((facts.st_mtime, item.name, facts.st_size))
            elif item.name.endswith(_SUFFIX + ".tmp"):
                remove(item.path)
                removed += 1
    there.sort()
    found: list[Found] = []
    for number, (_, name, size) in enumerate(there):
        path = os.path.join(directory, name)
        try:
            if number < len(there) - files:
                raise Broken("too many")
            with open(path, "rb") as stream:
                start = stream.read(_HEAD.size)
                entry, names = unpack_head(start + stream.read(_prefix(start)[0]), size)
        except (OSError, Broken):
            remove(path)
            removed += 1
            continue
        entry.fields = None
        found.append((name, size, entry, names))
    return found, removed


_claimed: dict[str, Disk] = {}


class Disk:
    """
    Files in ``directory``: at most ``limit`` bytes and ``files`` of them.

    ``run(function, *arguments)`` runs it in a thread and returns a Deferred; ``later`` is
    ``callLater``. ``adopt(entry, names)`` says whether an entry found at the start is taken into
    the index; ``lost(entry)`` is called when an entry's file is gone, ``changed()`` when what is
    there changed meanwhile; ``log`` takes a line.
    """

    def __init__(
        self,
        directory: str,
        limit: int,
        files: int,
        run: Callable[..., Deferred[Any]],
        later: Callable[..., Any],
        adopt: Callable[[Entry, tuple[bytes, ...]], bool],
        lost: Callable[[Entry], None],
        changed: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self.directory = directory
        self.limit = limit
        self.bytes = 0
        #: Bytes that wait to be written.
        self.pending = 0
        #: Files that were rubbish, or could not be written.
        self.failures = 0
        self._files = files
        self._run = run
        self._later = later
        self._adopt = adopt
        self._lost = lost
        self._changed = changed
        self._log = log
        self._held: dict[str, tuple[Entry, int]] = {}
        self._lock: int | None = None
        self._timer: Any = None
        self._rest: list[Found] = []

    @property
    def entries(self) -> int:
        """How many files there are."""
        return len(self._held)

    def start(self) -> None:
        """
        Take the directory, and begin to read what is there. Raises ``OSError`` where that cannot
        be, and ``ValueError`` when it is another process's.
        """
        os.makedirs(self.directory, 0o700, exist_ok=True)
        self.directory = os.path.realpath(self.directory)
        before = _claimed.get(self.directory)
        if before is not None:
            before.abandon()
        lock = os.open(os.path.join(self.directory, _LOCK), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise ValueError(f"{self.directory} is the cache of another process") from None
        self._lock = lock
        _claimed[self.directory] = self
        self._run(scan, self.directory, self._files).addCallbacks(self._found, self._failed)

    def abandon(self) -> None:
        """Another cache of this process takes the directory: what is only there is lost here."""
        self._log(f"another cache takes {self.directory} over")
        held, self._held = self._held, {}
        self.bytes = 0
        self.stop()
        for entry, _ in held.values():
            self._lost(entry)

    def stop(self) -> None:
        """Nothing is written or read any more; what is being written is finished."""
        if _claimed.get(self.directory) is self:
            del _claimed[self.directory]
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._rest = []
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def put(self, entry: Entry, names: tuple[bytes, ...]) -> None:
        """Write a warm entry, unless too much waits to be written already."""
        size = max(BLOCK, entry.size)
        if self._lock is None or size > self.limit or self.pending + size > PENDING:
            return
        name = secrets.token_hex(16) + _SUFFIX
        self.pending += size
        data = pack(entry, names)
        self._run(write, os.path.join(self.directory, name), data).addCallbacks(
            self._written,
            self._unwritten,
            callbackArgs=(entry, entry.file, name, len(data), size),
            errbackArgs=(size,),
        )

    def get(self, entry: Entry) -> Deferred[tuple[Entry, bytes]]:
        """Read a cold entry's file. Fails with :class:`Broken`, and then its file is gone."""
        name = entry.file
        path = os.path.join(self.directory, name)
        return self._run(read, path).addErrback(self._unread, name)

    def forget(self, entry: Entry) -> None:
        """An entry is of no use any more: its file is removed."""
        name, entry.file = entry.file, ""
        held = self._held.pop(name, None)
        if held is not None:
            self.bytes -= held[1]
            self._discard(name)

    def _discard(self, name: str) -> None:
        if self._lock is not None:
            self._run(remove, os.path.join(self.directory, name))

    def _hold(self, entry: Entry, name: str, size: int) -> None:
        size = max(BLOCK, size)
        entry.file = name
        self._held[name] = (entry, size)
        self.bytes += size
        while self.bytes > self.limit or len(self._held) > self._files:
            first = next(iter(self._held))
            old, taken = self._held.pop(first)
            if old.visited and self._held:
                # Asked for since the memory's hand came by: once round again.
                old.visited = False
                self._held[first] = (old, taken)
                continue
            self.bytes -= taken
            self._discard(first)
            self._lost(old)

    def _written(
        self, _: None, entry: Entry, before: str, name: str, length: int, size: int
    ) -> None:
        self.pending -= size
        if self._lock is None:
            return
        if entry.resource is None or entry.file != before:
            self._discard(name)  # it was dropped or written again meanwhile
            return
        if before:
            self.forget(entry)
        self._hold(entry, name, length)
        self._changed()

    def _unwritten(self, failure: Any, size: int) -> None:
        self.pending -= size
        self._failed(failure)

    def _unread(self, failure: Any, name: str) -> Any:
        if failure.check(Broken) is None:  # nobody waits for it any more
            return failure
        self.failures += 1
        held = self._held.pop(name, None)
        if held is not None:
            entry, taken = held
            self.bytes -= taken
            self._discard(name)
            self._lost(entry)
        return failure

    def _failed(self, failure: Any) -> None:
        # The first one is told, and the count says the rest: a full disk fails every time.
        self.failures += 1
        if self.failures == 1:
            self._log(f"{self.directory}: {failure.value}")
        self._changed()

    def _found(self, result: tuple[list[Found], int]) -> None:
        found, removed = result
        self.failures += removed
        if self._lock is not None:
            self._rest = found[::-1]
            self._take()

    def _take(self) -> None:
        self._timer = None
        for _ in range(min(SLICE, len(self._rest))):
            name, size, entry, names = self._rest.pop()
            if name in self._held:
                continue
            if self._adopt(entry, names):
                self._hold(entry, name, size)
            else:
                self._discard(name)
        self._changed()
        if self._rest:
            self._timer = self._later(0, self._take)
