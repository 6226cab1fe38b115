"""
TLS by hand: a client whose every record can be cut, bent or made anew before it is sent, and
servers that lie.

The law: the handshake itself is Python's ``ssl``, in memory; nothing here uses meshproxy.
"""

from __future__ import annotations

import socket
import ssl
import struct
import tempfile
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.harness import HOST, PATIENCE

__all__ = [
    "ALERT",
    "CHANGE_CIPHER_SPEC",
    "DATA",
    "HANDSHAKE",
    "RawClient",
    "RawServer",
    "Sealed",
    "key_update",
    "record",
    "split",
    "traffic_secret",
]

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, DATA = 20, 21, 22, 23


def record(kind: int, content: bytes, version: int = 0x0303, length: int | None = None) -> bytes:
    """One record; ``length`` is what it says of itself."""
    size = len(content) if length is None else length
    return struct.pack("!BHH", kind, version, size) + content


def split(data: bytes) -> list[tuple[int, bytes]]:
    """The records in ``data``, all whole: kind and content."""
    found = []
    while data:
        kind, _, size = struct.unpack("!BHH", data[:5])
        found.append((kind, data[5 : 5 + size]))
        data = data[5 + size :]
    return found


def key_update(wanted: bool) -> bytes:
    """The handshake message; ``wanted``: the other side is to renew its key too."""
    return b"\x18\x00\x00\x01" + bytes([wanted])


class RawClient:
    """
    A client at a port of the proxy. :meth:`say` takes the handshake on and returns what is to be
    sent; :meth:`hear` waits for some bytes of the server.
    """

    def __init__(
        self,
        port: int,
        ca: Path,
        version: str = "1.3",
        name: str = "a.example",
        secrets: Path | None = None,
    ) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        wanted = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = wanted
        self._secrets = secrets
        if secrets is not None:
            context.keylog_filename = str(secrets)
        self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._into, self._out, server_hostname=name)
        self.sock = socket.create_connection((HOST, port), PATIENCE)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def say(self) -> bytes:
        """What the client sends now that it has heard what it has."""
        if not self.done:
            try:
                self.tls.do_handshake()
                self.done = True
            except ssl.SSLWantReadError:
                pass
        return self._out.read()

    def hear(self) -> int:
        """Wait for something; 0: the end of the stream."""
        data = self.sock.recv(65536)
        self._into.write(data)
        return len(data)

    def shake(self) -> Self:
        """The whole handshake."""
        while True:
            self.sock.sendall(self.say())
            if self.done:
                return self
            if not self.hear():
                raise ConnectionResetError("the server ended the handshake")

    def sealed(self, data: bytes) -> bytes:
        """``data`` as it would be sent."""
        self.tls.write(data)
        return self._out.read()

    def ask(self) -> bytes:
        """One request; the answer's bytes."""
        self.sock.sendall(self.sealed(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"))
        answer = b""
        while b"hello" not in answer:
            try:
                answer += self.tls.read(65536)
            except ssl.SSLWantReadError:
                if not self.hear():
                    break
        return answer

    def end(self) -> None:
        """Send no more, if there is still somebody to send to."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def lost(self) -> bytes:
        """
        Read on until the server ends the connection; what came after the handshake, decrypted.
        """
        answer = b""
        self.sock.settimeout(PATIENCE)
        while True:
            try:
                if not self.done:
                    self.tls.do_handshake()
                    self.done = True
                answer += self.tls.read(65536)
                continue
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                # An alert, or what our own bent records come to; the end follows.
                while self._drop():
                    pass
                return answer
            try:
                if not self.hear():
                    return answer
            except ConnectionError:
                return answer

    def _drop(self) -> bytes:
        try:
            return self.sock.recv(65536)
        except ConnectionError:
            return b""

    def writer(self) -> Sealed:
        """What seals further records of this client; of TLS 1.3, and nothing was sent yet."""
        assert self._secrets is not None
        return Sealed(traffic_secret(self._secrets))


def traffic_secret(log: Path, whose: str = "CLIENT") -> bytes:
    """What a side's records are sealed by, from a key log."""
    for line in log.read_text().splitlines():
        if line.startswith(f"{whose}_TRAFFIC_SECRET_0 "):
            return bytes.fromhex(line.split()[2])
    raise AssertionError("no secret")


class Sealed:
    """Seals records of TLS 1.3 with AES-128-GCM by a traffic secret (RFC 8446, 7.3)."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(_expand(secret, b"key", 16))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")
        self._sequence = 0

    def renew(self) -> None:
        """The next key: behind a KeyUpdate."""
        self._use(_expand(self._secret, b"traffic upd", 32))

    def record(self, kind: int, content: bytes, pad: int = 0) -> bytes:
        """One record of ``kind``."""
        plain = content + bytes([kind]) + bytes(pad)
        head = struct.pack("!BHH", DATA, 0x0303, len(plain) + 16)
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        return head + self._key.encrypt(nonce, plain, head)


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    full = b"tls13 " + label
    info = struct.pack("!H", size) + bytes([len(full)]) + full + b"\0"
    made, last = b"", b""
    while len(made) < size:
        step = hmac.HMAC(secret, hashes.SHA256())
        step.update(last + info + bytes([len(made) // 32 + 1]))
        last = step.finalize()
        made += last
    return made[:size]


class RawServer:
    """
    A server's end of an accepted connection, as :class:`RawClient` is a client's: ``say`` returns
    what is to be sent, ``hear`` waits for some bytes. It gives no tickets.
    """

    def __init__(self, sock: socket.socket, folder: Path, version: str = "1.3") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.pem", folder / "server.key")
        wanted = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = wanted
        context.num_tickets = 0
        self._folder = tempfile.TemporaryDirectory()
        self._secrets = Path(self._folder.name) / "secrets"
        context.keylog_filename = str(self._secrets)
        self._into, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._into, self._out, server_side=True)
        self.sock = sock
        self.done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def say(self) -> bytes:
        """What the server sends now that it has heard what it has."""
        try:
            self.tls.do_handshake()
            self.done = True
        except ssl.SSLWantReadError:
            pass
        return self._out.read()

    def hear(self) -> bytes:
        """Wait for something; nothing: the end of the stream."""
        data = self.sock.recv(65536)
        self._into.write(data)
        return data

    def first(self) -> bytes:
        """The first flight, when the client has said its hello."""
        while not (flight := self.say()):
            if not self.hear():
                raise ConnectionResetError("the client has left")
        return flight

    def shake(self) -> Self:
        """The whole handshake."""
        self.sock.sendall(self.first())
        while not self.done:
            if not self.hear():
                raise ConnectionResetError("the client has left")
            self.sock.sendall(self.say())
        return self

    def asked(self) -> None:
        """Wait for a request without a body."""
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            try:
                part = self.tls.read(65536)
            except ssl.SSLWantReadError:
                if self.hear():
                    continue
                part = b""
            if not part:
                raise ConnectionResetError("the client has left")
            request += part

    def sealed(self, data: bytes) -> bytes:
        """``data`` as it would be sent."""
        self.tls.write(data)
        return self._out.read()

    def writer(self) -> Sealed:
        """What seals further records of this server; of TLS 1.3, and nothing was sent yet."""
        return Sealed(traffic_secret(self._secrets, "SERVER"))
