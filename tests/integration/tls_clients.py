"""
Clients of several TLS libraries, made to do the same and to tell what they saw in the same words.

Laws:

- Nothing here uses meshproxy. Each client does what :class:`Ask` says and nothing more: what it
  cannot do is not among its ``can``.
- A client sends one HTTP request and reads to the end, so that what a server says after the
  handshake (tickets, alerts about certificates) is seen too.
- Node and Java are each one process for all that is asked of them.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.harness import HOST, PATIENCE

__all__ = ["Ask", "Asker", "Curl", "OpenSsl", "Piped", "PythonSsl", "Said", "java", "node"]

REQUEST = b"GET / HTTP/1.1\r\nHost: test.example\r\nConnection: close\r\n\r\n"

#: The words that each library has for an alert differ; these are in all of them.
ALERTS = (
    "protocol version",
    "unrecognized name",
    "no application protocol",
    "certificate required",
    "certificate expired",
    "certificate revoked",
    "bad certificate",
    "unknown ca",
    "unsupported certificate",
    "handshake failure",
    "no renegotiation",
)

PASSWORD = "secret"

CIPHERS = {"ec": "ECDHE-ECDSA-AES128-GCM-SHA256", "rsa": "ECDHE-RSA-AES128-GCM-SHA256"}
SCHEMES = {"ec": "ECDSA+SHA256", "rsa": "RSA-PSS+SHA256"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """
    What a client is to do.

    ``name`` is asked for by SNI ("": no SNI), and verified against ``ca`` where that is given;
    ``version`` is the only one offered ("": as the client likes); ``certificate`` is the stem of
    a client certificate's files; ``kind``: only this kind of server certificate will do;
    ``again``: a second connection follows that offers the first's session, and what is told is
    what became of that.
    """

    port: int
    name: str = ""
    ca: str = ""
    version: str = ""
    alpn: tuple[str, ...] = ()
    certificate: str = ""
    kind: str = ""
    staple: bool = False
    key_log: str = ""
    again: bool = False


@dataclass(slots=True)
class Said:
    """
    What a client saw: the version, the common name of the server's certificate, the protocol
    agreed on, the status line's number, whether it resumed (None: it cannot tell) and whether an
    OCSP response came; ``error``: the alert, or all that the client wrote about its failure.
    """

    version: str = ""
    subject: str = ""
    alpn: str = ""
    status: str = ""
    reused: bool | None = None
    stapled: bool = False
    error: str = ""


class Asker(Protocol):
    """A client."""

    name: str
    can: frozenset[str]

    def ask(self, ask: Ask) -> Said:
        """Do it."""

    def close(self) -> None:
        """End what runs."""


def words(text: str) -> str:
    """The alert in an error's text, else that text."""
    plain = re.sub(r"[-_\s]+", " ", text.lower())
    return next((alert for alert in ALERTS if alert in plain), text.strip())


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else ""


def _run(command: Sequence[str], data: bytes, **environment: str) -> tuple[str, str, int]:
    done = subprocess.run(
        command,
        input=data,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=PATIENCE,
        check=False,
    )
    return (
        done.stdout.decode("latin-1"),
        done.stderr.decode("latin-1"),
        done.returncode,
    )


class OpenSsl:
    """``openssl s_client``."""

    name = "openssl"
    can = frozenset(
        ["old", "alpn", "kind12", "kind13", "resume12", "resume13", "staple", "key_log"]
    )

    def ask(self, ask: Ask) -> Said:
        """Do it."""
        if not ask.again:
            return self._once(ask)
        with tempfile.TemporaryDirectory() as folder:
            file = f"{folder}/session"
            self._once(ask, "-sess_out", file)
            # Without a session to resume none is written.
            return self._once(ask, *(("-sess_in", file) if os.path.exists(file) else ()))

    def _once(self, ask: Ask, *more: str) -> Said:
        out, err, status = _run([*command(ask), "-ign_eof", *more], REQUEST)
        met = re.search(r"^(New|Reused), TLSv(1\.\d), Cipher is (\S+)", out, re.MULTILINE)
        said = Said(
            version=met[2] if met else "",
            subject=_first(r"^subject=.*?CN ?= ?([^\r\n,/]+)$", out),
            alpn=_first(r"^ALPN protocol: (\S+)", out),
            # It writes what comes in the middle of its own lines.
            status=_first(r"HTTP/1\.1 (\d+)", out),
            reused=met is not None and met[1] == "Reused",
            stapled="OCSP Response Status: successful" in out,
        )
        if not said.status:
            said.error = words(err) or f"status {status}"
        return said

    def close(self) -> None:
        """Nothing runs."""


def command(ask: Ask) -> list[str]:
    """The ``openssl s_client`` that does it."""
    line = ["openssl", "s_client", "-connect", f"{HOST}:{ask.port}"]
    line += ["-servername", ask.name] if ask.name else ["-noservername"]
    if ask.ca:
        line += ["-CAfile", ask.ca, "-verify_return_error", "-verify_hostname", ask.name or HOST]
    if ask.version:
        line.append("-tls" + ask.version.replace(".", "_").removesuffix("_0"))
    if ask.version in ("1.0", "1.1"):
        line += ["-cipher", "DEFAULT@SECLEVEL=0"]
    elif ask.kind:
        line += ["-cipher", CIPHERS[ask.kind], "-sigalgs", SCHEMES[ask.kind]]
    if ask.alpn:
        line += ["-alpn", ",".join(ask.alpn)]
    if ask.certificate:
        stem = ask.certificate
        line += ["-cert", f"{stem}.pem", "-cert_chain", f"{stem}.pem", "-key", f"{stem}.key"]
    if ask.staple:
        line.append("-status")
    if ask.key_log:
        line += ["-keylogfile", ask.key_log]
    return line


class Curl:
    """The ``curl`` command, on whichever library it was built with."""

    name = "curl"
    # It offers no tickets in TLS 1.2.
    can = frozenset(["old", "kind12", "resume13", "staple", "key_log"])

    def ask(self, ask: Ask) -> Said:
        """Do it."""
        # Without SNI: an address is no name.
        url = f"https://{ask.name or HOST}:{ask.port}/"
        line = ["curl", "-sSv", "--noproxy", "*", "-H", "connection: close", "-o", "/dev/null"]
        if ask.name:
            line += ["--resolve", f"{ask.name}:{ask.port}:{HOST}"]
        line += ["--cacert", ask.ca] if ask.ca else ["-k"]
        if ask.version:
            line += [f"--tlsv{ask.version}", "--tls-max", ask.version]
        if ask.version in ("1.0", "1.1"):
            line += ["--ciphers", "DEFAULT@SECLEVEL=0"]
        elif ask.kind:
            line += ["--ciphers", CIPHERS[ask.kind]]
        line.append("--http1.1" if ask.alpn else "--no-alpn")
        if ask.certificate:
            line += ["--cert", f"{ask.certificate}.pem", "--key", f"{ask.certificate}.key"]
        if ask.staple:
            line.append("--cert-status")
        line.append(url)
        if ask.again:
            line += ["-o", "/dev/null", url]
        environment = {"SSLKEYLOGFILE": ask.key_log} if ask.key_log else {}
        _, err, status = _run(line, b"", **environment)
        return Said(
            version=_first(r"SSL connection using TLSv(1\.\d)", err),
            subject=_first(r"^\*  subject: .*?CN=([^\r\n;]+)$", err),
            alpn=_first(r"ALPN[:,] server accepted (?:to use )?(\S+)", err),
            status=_first(r"^< HTTP/1\.1 (\d+)", err),
            # With --cert-status there is no success without one.
            stapled=ask.staple and status == 0,
            error="" if status == 0 else words(err),
        )

    def close(self) -> None:
        """Nothing runs."""


class PythonSsl:
    """Python's ``ssl``."""

    name = "python"
    can = frozenset(["old", "alpn", "kind12", "resume12", "resume13", "key_log"])

    def ask(self, ask: Ask) -> Said:
        """Do it."""
        context = self._context(ask)
        said, session = self._once(ask, context, None)
        return self._once(ask, context, session)[0] if ask.again else said

    def _context(self, ask: Ask) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if ask.ca:
            context.load_verify_locations(ask.ca)
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if ask.version:
            version = ssl.TLSVersion[f"TLSv{ask.version.replace('.', '_').removesuffix('_0')}"]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = context.maximum_version = version
        if ask.version in ("1.0", "1.1"):
            context.set_ciphers("DEFAULT@SECLEVEL=0")
        elif ask.kind:
            context.set_ciphers(CIPHERS[ask.kind])
        if ask.alpn:
            context.set_alpn_protocols(ask.alpn)
        if ask.certificate:
            context.load_cert_chain(f"{ask.certificate}.pem", f"{ask.certificate}.key")
        if ask.key_log:
            context.keylog_filename = ask.key_log
        return context

    def _once(
        self, ask: Ask, context: ssl.SSLContext, session: ssl.SSLSession | None
    ) -> tuple[Said, ssl.SSLSession | None]:
        said = Said()
        # An address as name is verified, and not sent.
        name = ask.name or (HOST if ask.ca else None)
        try:
            with (
                socket.create_connection((HOST, ask.port), PATIENCE) as plain,
                context.wrap_socket(plain, server_hostname=name, session=session) as sock,
            ):
                said.version = (sock.version() or "").removeprefix("TLSv")
                said.alpn = sock.selected_alpn_protocol() or ""
                said.reused = bool(sock.session_reused)
                if ask.ca:
                    shown: Any = sock.getpeercert()
                    pairs = dict(pair for (pair,) in shown["subject"])
                    said.subject = pairs["commonName"]
                else:
                    said.subject = _common_name(sock.getpeercert(True) or b"")
                sock.sendall(REQUEST)
                answer = b""
                while data := sock.recv(65536):
                    answer += data
                said.status = answer[9:12].decode("latin-1")
                return said, sock.session
        except OSError as error:
            said.error = words(str(error))
            return said, None

    def close(self) -> None:
        """Nothing runs."""


def _common_name(der: bytes) -> str:
    from cryptography import x509

    name = x509.load_der_x509_certificate(der).subject
    return str(name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)


class Piped:
    """
    A process that reads a line for each question and writes one for each answer: ``key=value``,
    a tab between two.
    """

    def __init__(self, name: str, can: str, command: Sequence[str]) -> None:
        self.name = name
        self.can = frozenset(can.split())
        self._command = command
        self._process: subprocess.Popen[str] | None = None

    def ask(self, ask: Ask) -> Said:
        """Do it."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        fields = {
            "port": ask.port,
            "name": ask.name,
            "ca": ask.ca,
            "version": ask.version and f"TLSv{ask.version}".removesuffix(".0"),
            "alpn": ",".join(ask.alpn),
            "certificate": ask.certificate,
            "cipher": CIPHERS.get(ask.kind, ""),
            "scheme": SCHEMES.get(ask.kind, ""),
            "password": PASSWORD,
            "staple": "yes" if ask.staple else "",
            "key_log": ask.key_log,
            "again": "yes" if ask.again else "",
        }
        process.stdin.write("\t".join(f"{k}={v}" for k, v in fields.items()) + "\n")
        line = process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.name} ended")
        got = dict(field.partition("=")[::2] for field in line.rstrip("\n").split("\t"))
        reused = got.get("reused", "")
        return Said(
            version=got["version"].removeprefix("TLSv"),
            subject=got["subject"],
            alpn=got["alpn"],
            status=got["status"],
            reused=reused == "true" if reused else None,
            stapled=got["stapled"] == "true",
            error=words(got["error"]),
        )

    def close(self) -> None:
        """End it."""
        process = self._process
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            process.wait(PATIENCE)
            process.stdout.close()


_FOLDER = Path(__file__).parent


def node() -> Piped | None:
    """Node, where it is installed."""
    found = shutil.which("node")
    if found is None:
        return None
    can = "old alpn kind12 kind13 resume12 resume13 staple key_log"
    return Piped("node", can, [found, str(_FOLDER / "tls_client.js")])


def java() -> Piped | None:
    """Java with its compiler, where it is installed."""
    found = shutil.which("java")
    if found is None or shutil.which("javac") is None:
        return None
    # One core is enough, and the second compiler takes longer than all that it would speed up.
    quick = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto"]
    return Piped(
        "java",
        "old alpn kind12 resume12 resume13",
        [found, *quick, str(_FOLDER / "TlsClient.java")],
    )
