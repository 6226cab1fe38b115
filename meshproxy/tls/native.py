"""
The few functions of OpenSSL that run for every read and write, called without a layer between.

The law it keeps: ``OpenSSL.SSL._lib`` is not public, so each name is looked up once, here, when
the module is imported; where one is missing (a pyOpenSSL to come) :data:`DIRECT` is false, and
the same is done by the public methods of ``OpenSSL.SSL.Connection``, slower.

Each function takes a ``Connection``'s :func:`handle`.  ``read`` and ``write`` return the number
of bytes, or one of :data:`AGAIN` (the socket is not ready), :data:`STUCK` (a read waits until the
socket can be written: there is an answer to the peer's KeyUpdate, which the peer must take first),
:data:`ENDED` (the peer's close_notify came) and :data:`BROKEN` (anything else: nothing more can be
done with the connection); OpenSSL's queue of errors is empty afterwards.
"""

from __future__ import annotations

import socket
from typing import Any, Final

from OpenSSL import SSL

__all__ = [
    "AGAIN",
    "BROKEN",
    "DIRECT",
    "DONE",
    "ENDED",
    "IN_MEMORY",
    "ROOM",
    "STUCK",
    "clear",
    "feed",
    "handle",
    "in_memory",
    "left",
    "on_socket",
    "read",
    "reused",
    "shake",
    "shutdown",
    "take_turns",
    "taken",
    "why_broken",
    "write",
]

AGAIN: Final = 0
ENDED: Final = -1
BROKEN: Final = -2
STUCK: Final = -3
DONE: Final = 1

ROOM: Final = 262144
"""Bytes that one :func:`read` may return."""

RECORD: Final = 16384
"""Bytes of the longest record's content."""

MORE: Final = 4096
"""A record of so many bytes is hardly the last: another is looked for at once."""

_FOR_MEMORY: Final = (
    "BIO_get_mem_data",
    "BIO_new",
    "BIO_read",
    "BIO_s_mem",
    "BIO_write",
    "SSL_set_bio",
    "SSL_set_fd",
)

_NEEDED: Final = (
    "ERR_clear_error",
    "SSL_ERROR_WANT_READ",
    "SSL_ERROR_WANT_WRITE",
    "SSL_ERROR_ZERO_RETURN",
    "SSL_do_handshake",
    "SSL_get_error",
    "SSL_read",
    "SSL_write",
)

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)

DIRECT: Final[bool] = _ffi is not None and all(hasattr(_lib, name) for name in _NEEDED)

IN_MEMORY: Final[bool] = DIRECT and all(hasattr(_lib, name) for name in _FOR_MEMORY)
"""Whether there are :func:`in_memory` and what belongs to it."""


def _handle(connection: SSL.Connection) -> Any:
    """What the functions of this module take in place of ``connection``."""
    return connection._ssl


if DIRECT:
    _SHAKE = _lib.SSL_do_handshake
    _READ = _lib.SSL_read
    _WRITE = _lib.SSL_write
    _GET_ERROR = _lib.SSL_get_error
    _CLEAR = _lib.ERR_clear_error
    _WANT_READ = _lib.SSL_ERROR_WANT_READ
    _WANT_WRITE = _lib.SSL_ERROR_WANT_WRITE
    _ZERO = _lib.SSL_ERROR_ZERO_RETURN
    # One for all connections: what is read is copied out before anything else happens.
    _BUFFER = _ffi.new("char[]", ROOM)
    _VIEW = memoryview(_ffi.buffer(_BUFFER))
    _FROM_BUFFER = _ffi.from_buffer


def _outcome(ssl: Any, result: int, stuck: int = AGAIN) -> int:
    error = _GET_ERROR(ssl, result)
    if error == _WANT_READ:
        return AGAIN
    if error == _WANT_WRITE:
        return stuck
    if error == _ZERO:
        return ENDED
    global _broken_by
    _broken_by = _words()
    _CLEAR()
    return BROKEN


_broken_by = ""


def _words() -> str:
    """OpenSSL's words for the last error; empty where it has none."""
    try:
        text = _lib.ERR_reason_error_string(_lib.ERR_peek_error())
    except AttributeError:
        return ""
    return _ffi.string(text).decode("latin-1") if text else ""


def why_broken() -> str:
    """Of the last :data:`BROKEN`: OpenSSL's words; empty where it has none, or nobody can tell."""
    return _broken_by


def _read(ssl: Any) -> tuple[bytes, int] | bytes:
    """Bytes; or what came before, and why there is no more (see above)."""
    size = _READ(ssl, _BUFFER, ROOM)
    if 0 < size < MORE:
        return _VIEW[:size].tobytes()
    if size <= 0:
        return b"", _outcome(ssl, size, STUCK)
    total = size
    while size >= MORE and total <= ROOM - RECORD:
        size = _READ(ssl, _BUFFER + total, ROOM - total)
        if size <= 0:
            why = _outcome(ssl, size, STUCK)
            data = _VIEW[:total].tobytes()
            return data if why == AGAIN else (data, why)
        total += size
    return _VIEW[:total].tobytes()


def _write(ssl: Any, data: Any) -> int:
    """Bytes taken of ``data``, of which some are there; or why none (see above)."""
    size = len(data)
    if isinstance(data, bytes):
        sent: int = _WRITE(ssl, data, size)
        if sent == size:
            return sent
        if sent <= 0:
            return _outcome(ssl, sent)
        total = sent
    else:
        total = 0
    # OpenSSL takes one record at a time where it may stop in between, and only there it tells how
    # much it took.
    pointer = _FROM_BUFFER(data)
    while total < size:
        sent = _WRITE(ssl, pointer + total, size - total)
        if sent <= 0:
            why = _outcome(ssl, sent)
            # What is broken stays so, for who comes again.
            return total or why
        total += sent
    return total


def _shake(connection: SSL.Connection) -> int:
    """
    Go on with a handshake: :data:`DONE`, :data:`AGAIN` (something is to come) or :data:`STUCK`
    (the socket does not take what is to be sent). Raises ``SSL.Error``.
    """
    ssl = connection._ssl
    result: int = _SHAKE(ssl)
    if result == 1:
        return DONE
    error = _GET_ERROR(ssl, result)
    if error == _WANT_READ:
        return AGAIN
    if error == _WANT_WRITE:
        return STUCK
    connection._raise_ssl_error(ssl, result)
    raise SSL.Error("the handshake failed")


def _slow_shake(connection: SSL.Connection) -> int:
    try:
        connection.do_handshake()
    except SSL.WantReadError:
        return AGAIN
    except SSL.WantWriteError:
        return STUCK
    return DONE


def _slow_handle(connection: SSL.Connection) -> Any:
    return connection


def _slow_read(connection: SSL.Connection) -> tuple[bytes, int] | bytes:
    try:
        return connection.recv(ROOM)
    except SSL.WantReadError:
        return b"", AGAIN
    except SSL.WantWriteError:
        return b"", STUCK
    except SSL.ZeroReturnError:
        return b"", ENDED
    except SSL.Error:
        clear()
        return b"", BROKEN


def _slow_write(connection: SSL.Connection, data: Any) -> int:
    try:
        return connection.send(data)
    except (SSL.WantReadError, SSL.WantWriteError):
        return AGAIN
    except SSL.ZeroReturnError:
        return ENDED
    except SSL.Error:
        clear()
        return BROKEN


handle = _handle if DIRECT else _slow_handle
read = _read if DIRECT else _slow_read
shake = _shake if DIRECT else _slow_shake
write = _write if DIRECT else _slow_write


def clear() -> None:
    """
    Empty OpenSSL's queue of errors: after a failed system call pyOpenSSL leaves it as it is, and
    the next connection that has nothing to read would be taken for a broken one.
    """
    empty = getattr(_lib, "ERR_clear_error", None)
    if empty is not None:
        empty()


def in_memory(connection: SSL.Connection) -> tuple[Any, Any]:
    """Have ``connection``, made on a socket, read from memory and write into it; both of them."""
    into, out = (_lib.BIO_new(_lib.BIO_s_mem()) for _ in range(2))
    _lib.SSL_set_bio(connection._ssl, into, out)
    return into, out


def on_socket(connection: SSL.Connection, sock: socket.socket) -> None:
    """The way back; the memory, of which nothing may be left to read, is gone."""
    _lib.SSL_set_fd(connection._ssl, sock.fileno())


def feed(into: Any, data: bytes) -> None:
    """Put ``data`` where a connection in memory reads."""
    _lib.BIO_write(into, data, len(data))


def left(into: Any) -> int:
    """Bytes that a connection in memory has not read yet."""
    size: int = _lib.BIO_get_mem_data(into, _ffi.new("char **"))
    return size


def taken(out: Any) -> bytes:
    """What a connection in memory has written."""
    data = b""
    while (size := _lib.BIO_read(out, _BUFFER, ROOM)) > 0:
        data += _VIEW[:size].tobytes()
    return data


def take_turns(connection: SSL.Connection) -> None:
    """
    Have a read return, with :data:`AGAIN`, behind each record that is not the stream's.

    A peer who sends such records, of new keys for one, as quickly as they are read, would else
    keep OpenSSL, and all of the process, in one read for as long as it likes.
    """
    clear_mode = getattr(_lib, "SSL_clear_mode", None)
    if clear_mode is not None:
        clear_mode(connection._ssl, _lib.SSL_MODE_AUTO_RETRY)


def shutdown(connection: SSL.Connection) -> bool:
    """Send close_notify; False: the socket has no room for it, and it is to be called again."""
    try:
        connection.shutdown()
    except SSL.WantWriteError:
        return False
    except SSL.Error:
        # Broken: there is nobody to say it to.
        clear()
    return True


def reused(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed a session; False where pyOpenSSL does not let us ask."""
    ask = getattr(_lib, "SSL_session_reused", None)
    return ask is not None and ask(connection._ssl) == 1
