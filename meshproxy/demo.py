"""
The demonstration mesh: what ``twistd -n meshproxy`` runs when it is given nothing to run.

Laws:

- Everything is bound to 127.0.0.1, and nothing outside this process is needed: the HTTP
  upstreams are listeners of the same configuration and the TCP upstream is an echo beside it.
- The configuration is plain YAML that goes through the same reader as anybody's file.
- A port that is taken is a :class:`~meshproxy.errors.ListenError` that names the listener.
- Its certificates are made anew each time, in a temporary directory that ends with it.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.application import service
from twisted.internet import interfaces
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from meshproxy import config
from meshproxy.errors import ListenError
from meshproxy.service import make_service
from meshproxy.tls.make_certs import make

__all__ = ["Echo", "EchoService", "Ports", "configuration", "demonstration"]

_HOST = "127.0.0.1"
_FILES = (("chain", "pem"), ("key", "key"))


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of the demonstration."""

    http: int = 8080
    tcp: int = 8081
    one: int = 8091
    two: int = 8092
    echo: int = 8093
    admin: int = 9901
    broken: int = 8094
    https: int = 8443


def configuration(ports: Ports, certificates: Path) -> str:
    """The demonstration's configuration; the directory is that of :func:`make`."""
    pair = json.dumps({kind: str(certificates / f"localhost.{end}") for kind, end in _FILES})
    return f"""\
admin:
  listen: {_HOST}:{ports.admin}

listeners:
  web:                                # HTTP, balanced over two upstreams
    listen: {_HOST}:{ports.http}
    http:
      access_log: {{ path: "-" }}
      routes:
        - match: {{ path: /healthz }}
          respond: {{ status: 200, body: "ok\\n" }}
        - match: {{ path: /docs }}
          redirect: {{ path: /, status: 302 }}
        - match: {{ path: /shaky }}
          to: shaky
          retry: {{ on: [5xx], attempts: 1 }}      # on the other endpoint
        - to: site
  secure:                             # the same over TLS
    listen: {_HOST}:{ports.https}
    tls:
      certificates:
        - {pair}
    http:
      access_log: {{ path: "-" }}
      routes:
        - to: site
  echo:                               # TCP
    listen: {_HOST}:{ports.tcp}
    tcp:
      to: echo
  upstream-one:                       # the upstreams: listeners that answer by themselves
    listen: {_HOST}:{ports.one}
    http:
      routes:
        - respond: {{ status: 200, body: "hello from upstream one\\n" }}
  upstream-two:
    listen: {_HOST}:{ports.two}
    http:
      routes:
        - respond: {{ status: 200, body: "hello from upstream two\\n" }}
  upstream-broken:                    # one that is always wrong
    listen: {_HOST}:{ports.broken}
    http:
      routes:
        - respond: {{ status: 503, body: "broken\\n" }}

clusters:
  site:
    endpoints: ["{_HOST}:{ports.one}", "{_HOST}:{ports.two}"]
    balance: round_robin
    health_check: {{ http: /, interval: 2s }}
  shaky:                              # retries hide the broken one until its breaker opens
    endpoints: ["{_HOST}:{ports.one}", "{_HOST}:{ports.broken}"]
    circuit_breaker: {{ failure_threshold: 3, base_ejection_time: 10s }}
  echo:
    endpoints: ["{_HOST}:{ports.echo}"]
    health_check: {{ tcp: true }}
"""


def welcome(bound: dict[str, str], authority: Path) -> str:
    """
    What to try, by the addresses that were bound (listener name → ``ip:port``); the file is that of
    the authority that made the certificates.
    """
    web, secure, admin = bound["web"], bound["secure"], bound["admin"]
    host, _, port = bound["echo"].rpartition(":")
    return f"""
meshproxy runs a demonstration mesh; try, in another terminal:

  curl http://{web}/              balanced: ask twice, two upstreams answer in turn
  curl http://{web}/shaky         one of two upstreams is broken: retries, then its breaker, hide it
  curl -i http://{web}/docs       a redirect
  curl --cacert {authority} https://{secure}/    the same, over TLS
  echo hello | curl -s --max-time 1 telnet://{host}:{port}    TCP, to an echo
  curl http://{admin}/clusters    what it balances over: health, breakers, traffic
  curl http://{admin}/certs       its certificate, made for this run
  curl http://{admin}/metrics     what Prometheus would read

Ctrl-C ends it. To run your own: twistd -n meshproxy --config FILE

"""


def _announce(authority: Path, bound: dict[str, str]) -> None:
    """Print the welcome to the terminal itself: twistd's log has replaced ``sys.stdout``."""
    if sys.__stdout__ is not None:
        print(welcome(bound, authority), file=sys.__stdout__, flush=True)


@implementer(interfaces.IHalfCloseableProtocol)
class Echo(Protocol):
    """Sends back what it gets; a slow reader stops its reading, a half-close ends it in order."""

    transport: Any

    def connectionMade(self) -> None:
        """Let the transport pause itself when its buffer fills."""
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        """Send it back."""
        self.transport.write(data)

    def readConnectionLost(self) -> None:
        """Everything came; close once everything has been sent back."""
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing to add: the transport closes itself."""


class EchoService(service.Service):
    """An :class:`Echo` on loopback, bound in ``privilegedStartService``."""

    def __init__(self, port: int, reactor: Any) -> None:
        self._number = port
        self._reactor = reactor
        self._port: Any = None

    def privilegedStartService(self) -> None:
        """Bind. Raises :class:`ListenError`."""
        factory = Factory.forProtocol(Echo)
        factory.noisy = False
        try:
            self._port = self._reactor.listenTCP(self._number, factory, interface=_HOST)
        except CannotListenError as error:
            cause = error.socketError
            code = getattr(cause, "errno", None)
            reason = os.strerror(code) if code else str(cause)
            raise ListenError("the echo upstream", f"{_HOST}:{self._number}", reason) from error
        super().privilegedStartService()

    def stopService(self) -> Any:
        """Stop listening; the Deferred fires when the port is closed."""
        super().stopService()
        port, self._port = self._port, None
        return None if port is None else port.stopListening()


class _Mesh(service.MultiService):
    """The demonstration; its directory is removed when all else has ended."""

    def __init__(self) -> None:
        super().__init__()
        # It is removed at the process's end too, should that come without an end of the service.
        self._directory = TemporaryDirectory(prefix="meshproxy-", ignore_cleanup_errors=True)

    @property
    def directory(self) -> Path:
        return Path(self._directory.name)

    def stopService(self) -> Any:
        """Stop what is in it, then remove the directory."""

        def remove(result: Any) -> Any:
            self._directory.cleanup()
            return result

        return super().stopService().addBoth(remove)


def demonstration(ports: Ports | None = None, reactor: Any = None) -> service.MultiService:
    """The demonstration mesh as a service; nothing is opened yet."""
    if reactor is None:
        from twisted.internet import reactor
    if ports is None:
        ports = Ports()
    mesh = _Mesh()
    make(mesh.directory, [f"localhost,{_HOST}"])
    text = configuration(ports, mesh.directory)
    loaded = config.load(text, "the demonstration's configuration")
    announce = partial(_announce, mesh.directory / "ca.pem")
    make_service(loaded, announce=announce, reactor=reactor).setServiceParent(mesh)
    # Behind the proxy, so that whoever sees a first port listen can be served there.
    EchoService(ports.echo, reactor).setServiceParent(mesh)
    return mesh
