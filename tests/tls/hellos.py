"""ClientHellos for tests: put together by hand, or said by a TLS library into memory."""

from __future__ import annotations

import ssl
import struct

from OpenSSL import SSL

VERSIONS_12_13 = b"\x04\x03\x04\x03\x03"
GREASE = 0x3A3A


def extension(kind: int, body: bytes) -> bytes:
    """One extension."""
    return struct.pack("!HH", kind, len(body)) + body


def named(name: bytes, kind: int = 0) -> bytes:
    """The server_name extension."""
    entry = struct.pack("!BH", kind, len(name)) + name
    return extension(0, struct.pack("!H", len(entry)) + entry)


def protocols(*names: bytes) -> bytes:
    """The ALPN extension."""
    listed = b"".join(bytes([len(name)]) + name for name in names)
    return extension(16, struct.pack("!H", len(listed)) + listed)


def identities(*names: bytes) -> bytes:
    """The pre_shared_key extension, with binders of zeros."""
    listed = b"".join(struct.pack("!H", len(name)) + name + bytes(4) for name in names)
    binders = (b"\x20" + bytes(32)) * len(names)
    body = struct.pack("!H", len(listed)) + listed + struct.pack("!H", len(binders)) + binders
    return extension(41, body)


def message(
    *extensions: bytes,
    version: int = 0x0303,
    session: bytes = b"",
    suites: bytes = b"\x13\x01",
    compression: bytes = b"\x00",
    block: bool = True,
    tail: bytes = b"",
) -> bytes:
    """
    The handshake message, its header included; without a ``block`` it has no extensions.

    ``tail`` follows where nothing should.
    """
    body = struct.pack("!H", version) + bytes(range(32)) + bytes([len(session)]) + session
    body += struct.pack("!H", len(suites)) + suites + bytes([len(compression)]) + compression
    if block:
        joined = b"".join(extensions)
        body += struct.pack("!H", len(joined)) + joined
    body += tail
    return b"\x01" + len(body).to_bytes(3, "big") + body


def records(handshake: bytes, size: int = 16384) -> bytes:
    """``handshake`` in records of ``size`` bytes."""
    return b"".join(
        b"\x16\x03\x01" + struct.pack("!H", len(piece)) + piece
        for piece in (handshake[at : at + size] for at in range(0, len(handshake), size))
    )


def hello(name: bytes = b"", *alpn: bytes, pad: int = 0) -> bytes:
    """An ordinary hello for ``name`` and ``alpn``, with ``pad`` bytes of an unknown extension."""
    return records(
        message(
            *([named(name)] if name else ()),
            *([protocols(*alpn)] if alpn else ()),
            extension(43, VERSIONS_12_13),
            *([extension(21, bytes(pad))] if pad else ()),
        )
    )


def of_ssl(name: str | None, *alpn: str, highest: ssl.TLSVersion | None = None) -> bytes:
    """What Python's own ``ssl`` says."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if highest is not None:
        context.maximum_version = highest
    if alpn:
        context.set_alpn_protocols(list(alpn))
    said = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name)
    try:
        client.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return said.read()


def of_openssl(name: bytes, *alpn: bytes) -> bytes:
    """What pyOpenSSL says: more than 1,500 bytes where it offers X25519MLKEM768."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if alpn:
        context.set_alpn_protos(list(alpn))
    client = SSL.Connection(context, None)
    client.set_connect_state()
    client.set_tlsext_host_name(name)
    try:
        client.do_handshake()
    except SSL.WantReadError:
        pass
    return client.bio_read(1 << 20)
