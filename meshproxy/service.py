"""
The composition root: a configuration becomes a tree of services.

The law it keeps:

- Making the service opens nothing; everything is bound in ``privilegedStartService``, before
  privileges are dropped. If one listener cannot be bound, those bound before it are closed
  again and :class:`~meshproxy.errors.ListenError` names it: all or nothing.
- Clients are accepted when the clusters are warm (:mod:`meshproxy.upstreams`); until then the
  kernel holds them, the admin says that the proxy is not ready, and nothing is announced.
- Filters and other plugins are made with the service and started with it, before the first client
  is accepted; they are stopped when the last exchange is over (:mod:`meshproxy.chains`).
- Stopping closes every socket, cancels every timer and flushes every log, and is finished when
  the Deferred that ``stopService`` returns has fired.
"""

from __future__ import annotations

import gc
import signal
import socket
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from twisted.application import service
from twisted.internet import defer, endpoints
from twisted.python import log as logging

from meshproxy import __version__, config
from meshproxy.certificates import Certificates
from meshproxy.chains import Chains
from meshproxy.config import Loaded
from meshproxy.errors import ConfigError, ListenError, MeshproxyError
from meshproxy.http.listener import HttpListener
from meshproxy.net.listen import Port, listen
from meshproxy.net.wheel import TimerWheel
from meshproxy.observe.access import compile_format
from meshproxy.observe.logfile import LogFile
from meshproxy.observe.registry import Registry
from meshproxy.observe.sinks import each, guarded
from meshproxy.overload import Overload
from meshproxy.tcp.listener import TcpListener
from meshproxy.tcp.routes import hello_routes
from meshproxy.upstream.balancer import Foreign
from meshproxy.upstream.cluster import Cluster
from meshproxy.upstreams import Upstreams

if TYPE_CHECKING:
    from meshproxy.net.door import Door
    from meshproxy.tls.server import ServerTls

Announce = Callable[[dict[str, str]], None]

#: Seconds that requests under way have for finishing when the service stops.
DRAIN = 5.0


class Acceptor(Protocol):
    """What the rooms' listeners have in common."""

    @property
    def active(self) -> int:
        """Open connections."""

    def accept(self, sock: socket.socket, peer: Any) -> None:
        """Serve an accepted socket."""

    def factory(self) -> Any:
        """A Twisted protocol factory that serves connections."""


class Listening:
    """A listener of the configuration and, once bound, its port."""

    def __init__(self, name: str, model: config.Listener, room: HttpListener | TcpListener) -> None:
        self.name = name
        self.model = model
        self.room = room
        self.port: Any = None
        #: What takes an accepted socket: the room, or the filters in front of it.
        self.accept: Callable[[socket.socket, Any], None] = room.accept
        self.door: Door | None = None

    @property
    def kind(self) -> str:
        """``"http"`` or ``"tcp"``."""
        return "http" if self.model.http is not None else "tcp"

    @property
    def bound(self) -> str:
        """The address it is bound to, as text; as configured when it is not bound."""
        port = self.port
        if port is None:
            return self.model.listen.text
        if isinstance(port, Port):
            return port.bound
        host = port.getHost()
        name = getattr(host, "host", None)
        return str(host) if name is None else f"{name}:{host.port}"

    def bind(self, reactor: Any) -> None:
        """Bind; clients wait in the kernel until :meth:`begin`. Raises :class:`ListenError`."""
        address = self.model.listen
        try:
            if not address.family:
                self._bind_description(reactor, address.description)
                return
            self.port = listen(
                reactor,
                address.family,
                address.sockaddr,
                self.accept,
                backlog=self.model.backlog,
                reuse_port=self.model.reuse_port,
                nodelay=self.model.nodelay,
                keepalive=self.model.keepalive,
                begin=False,
            )
        except OSError as error:
            raise ListenError(self.name, address.text, error.strerror or str(error)) from error
        if isinstance(self.room, HttpListener) and address.family != socket.AF_UNIX:
            where = self.port.socket.getsockname()
            if where[0] not in ("0.0.0.0", "::"):
                self.room.set_local(self.port.bound.encode())

    def _bind_description(self, reactor: Any, description: str) -> None:
        """Any other Twisted endpoint: those that cannot bind at once are refused."""
        outcome: list[Any] = []
        try:
            endpoint = endpoints.serverFromString(reactor, description)
            endpoint.listen(self.room.factory()).addBoth(outcome.append)
        except Exception as error:
            raise ListenError(self.name, description, str(error)) from error
        if not outcome:
            raise ListenError(self.name, description, "the endpoint does not bind at once")
        if hasattr(outcome[0], "getErrorMessage"):
            raise ListenError(self.name, description, outcome[0].getErrorMessage())
        self.port = outcome[0]
        if hasattr(self.port, "stopReading"):
            self.port.stopReading()

    def begin(self) -> None:
        """Accept clients."""
        if hasattr(self.port, "startReading"):
            self.port.startReading()

    def describe(self) -> dict[str, Any]:
        """What the admin shows."""
        return {
            "name": self.name,
            "kind": self.kind,
            "address": self.bound,
            "connections": self.room.active,
            "max_connections": self.model.max_connections,
        }


class AccessLogs:
    """The access logs of all listeners; those that name the same path share the file."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._files: dict[str, LogFile] = {}

    def writer(self, model: config.AccessLog, tls: bool) -> Callable[[Any], None]:
        """
        A function that writes a record, of a listener with ``tls`` or without, to a file.

        Raises ``ValueError`` for a bad format.
        """
        assert model.path is not None
        form = compile_format(model.format, self._clock.seconds, tls=tls)
        held = self._files.get(model.path)
        if held is None:
            held = self._files[model.path] = LogFile(model.path, self._clock)
        write = held.write

        def log(record: Any) -> None:
            write(form(record))

        return log

    def open(self) -> None:
        """Open all files. Raises :class:`MeshproxyError` that names the path."""
        for path, held in self._files.items():
            try:
                held.open()
            except OSError as error:
                raise MeshproxyError(
                    f"access log '{path}' cannot be opened: {error.strerror or error}"
                ) from error

    def reopen(self) -> None:
        """Open all files anew (log rotation)."""
        for held in self._files.values():
            held.reopen()

    def close(self) -> None:
        """Flush and close all files."""
        for held in self._files.values():
            held.close()


class MeshService(service.MultiService):
    """The running proxy. Also what the admin asks (``meshproxy.admin.state.AdminState``)."""

    version = __version__

    def __init__(self, loaded: Loaded, reactor: Any, announce: Announce | None = None) -> None:
        super().__init__()
        configuration = loaded.configuration
        self.loaded = loaded
        self.started = time.time()
        self.registry = Registry()
        self._reactor = reactor
        self._announce = announce
        self._wheel = TimerWheel(reactor)
        self._logs = AccessLogs(reactor)
        self._serving = False
        self._warm = False
        self._admin_port: Any = None
        self._signalled: Any = None
        self._chains = Chains(loaded, self.registry, self._wheel, reactor)
        self._chains.prepare()
        self._certificates = Certificates(loaded, self.registry, self._wheel, reactor)
        # Of HTTP listeners that do not decrypt all that comes.
        self._passing: dict[str, TcpListener] = {}
        self._clusters = {
            name: self._cluster(name, model) for name, model in configuration.clusters.items()
        }
        self._upstreams = Upstreams(loaded, self._clusters, reactor, self._chains.choose)
        self._listeners = [
            self._listening(name, model) for name, model in configuration.listeners.items()
        ]
        self._overload: Overload | None = None
        if configuration.overload is not None:
            self._overload = Overload(
                configuration.overload, lambda: self._listeners, self.registry, reactor
            )

    def _cluster(self, name: str, model: config.Cluster) -> Cluster:
        balancing = None
        if not isinstance(model.balance, str):
            where = ("clusters", name, "balance")
            balancing = Foreign(self._chains.choose("balancer", model.balance, where, cluster=name))
        zone = self.loaded.configuration.zone
        cluster = Cluster(name, model, self.registry, self._wheel, zone, balancing)
        cluster.tls = self._certificates.client(name, model)
        return cluster

    def _listening(self, name: str, model: config.Listener) -> Listening:
        listening = Listening(name, model, self._room(name, model))
        if model.listener_filters:
            from meshproxy.net.door import Door

            where = ("listeners", name, "listener_filters")
            fitted = self._chains.fit("listener", name, model.listener_filters, where)
            door = Door(fitted, self._wheel, name, listening.accept)
            listening.door = door
            listening.accept = door.accept
            self.registry.sample(
                "meshproxy_listener_turned_away",
                "Connections closed because too many waited for a filter of the listener",
                {"listener": name},
                lambda: float(door.turned_away),
            )
        return listening

    def _room(self, name: str, model: config.Listener) -> HttpListener | TcpListener:
        kind = model.http or model.tcp
        assert kind is not None
        if model.tcp is not None and model.listen.description.startswith("haproxy:"):
            # It unwraps its header from the first bytes, and nothing is read from a TCP client
            # before an upstream is there: the header would go to nobody.
            message = "on a TCP listener, write 'proxy_protocol: true' beside a plain address"
            raise ConfigError((self.loaded.problem(("listeners", name, "listen"), message),))
        room = HttpListener if model.http is not None else TcpListener
        spoken = "http" if model.http is not None else "tcp"
        sees_tls = model.tls is not None or bool(model.tcp is not None and model.tcp.routes)
        log = self._log(name, spoken, kind.access_log, sees_tls)
        fit = self._chains.fitting(spoken, name)
        tls = self._certificates.server(name, model)
        if tls is not None and model.http is not None and model.tls and model.tls.pass_through:
            self._passing[name] = self._pass_through(name, model, log, tls)
        try:
            return room(
                self._reactor,
                self._wheel,
                self.registry,
                name,
                model,
                self._clusters,
                log,
                fit=fit,
                tls=tls,
            )
        except ValueError as error:
            # Filters that turn out to be what their factory did not say, or do not go together.
            at = ("listeners", name, spoken, "filters")
            raise ConfigError((self.loaded.problem(at, str(error)),)) from error

    def _pass_through(
        self,
        name: str,
        model: config.Listener,
        log: Callable[[Any], None] | None,
        tls: ServerTls,
    ) -> TcpListener:
        """The room of what an HTTP listener does not decrypt, as a TCP listener has it."""
        assert model.tls is not None
        passed = model.tls.pass_through
        tcp = config.Tcp.model_construct(to=passed[0].to)
        plain: dict[str, Any] = {"http": None, "tls": None, "tcp": tcp, "listener_filters": []}
        room = TcpListener(
            self._reactor,
            self._wheel,
            self.registry,
            f"{name}/pass_through",
            model.model_copy(update=plain),
            self._clusters,
            log,
        )
        tls.pass_through = hello_routes(passed, self._clusters).find
        tls.passed = room.passed
        return room

    def _log(
        self, name: str, spoken: str, models: Sequence[config.AccessLog], tls: bool
    ) -> Callable[[Any], None] | None:
        """What takes the records of a listener; None where nothing does."""
        writers = []
        for index, model in enumerate(models):
            where = ("listeners", name, spoken, "access_log", index)
            if model.plugin is not None:
                item = model.plugin
                chosen = self._chains.choose("access_log", item, (*where, "plugin"), listener=name)
                writers.append(guarded(chosen))
                continue
            try:
                writers.append(self._logs.writer(model, tls))
            except ValueError as error:
                problem = self.loaded.problem((*where, "format"), str(error))
                raise ConfigError((problem,)) from error
        return each(writers)

    # Service

    def privilegedStartService(self) -> None:
        """
        Bind everything, and open the access logs.

        Raises :class:`ListenError` or another :class:`MeshproxyError`, with nothing left bound.
        """
        raise_descriptor_limit()
        try:
            self._upstreams.prepare()
            for listening in self._listeners:
                listening.bind(self._reactor)
            self._bind_admin()
            self._logs.open()
        except BaseException:  # whatever it is, nothing stays bound
            self._unbind()
            self._logs.close()
            raise
        super().privilegedStartService()

    def startService(self) -> None:
        """
        Everything is bound: serve as soon as the clusters are warm.

        Raises :class:`MeshproxyError` for a filter that does not start, with nothing left bound.
        """
        try:
            # Privileges are dropped by now: what a filter opens, it can open again.
            self._chains.start()
        except MeshproxyError:
            self._unbind()
            self._logs.close()
            raise
        super().startService()
        self._certificates.start()
        self._serving = True
        self._signalled = signal.getsignal(signal.SIGUSR1)
        try:
            signal.signal(signal.SIGUSR1, self._on_signal)
        except ValueError:
            self._signalled = None  # not in the main thread: the admin can still reopen
        # What exists now lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        self._upstreams.start(self._begin)

    def _begin(self) -> None:
        self._warm = True
        for listening in self._listeners:
            listening.begin()
        if self._overload is not None:
            self._overload.start()
        if self._announce is not None:
            self._announce(self.addresses())

    def stopService(self) -> defer.Deferred[Any]:
        """Stop accepting, give requests under way :data:`DRAIN` seconds, close everything."""
        self._serving = False
        if self._overload is not None:
            self._overload.stop()
        self._upstreams.cool()
        if self._signalled is not None:
            signal.signal(signal.SIGUSR1, self._signalled)
            self._signalled = None
        stopped = defer.maybeDeferred(super().stopService)
        stopped.addCallback(lambda _: self._drain())
        stopped.addBoth(self._close)
        return stopped

    def _on_signal(self, number: int, frame: Any) -> None:
        # twistd's own log is rotated by the same signal.
        if callable(self._signalled):
            self._signalled(number, frame)
        self._reactor.callFromThread(self.reopen_logs)

    def _bind_admin(self) -> None:
        admin = self.loaded.configuration.admin
        if admin is None:
            return
        from meshproxy.admin.site import make_site

        address = admin.listen
        site = make_site(self)
        try:
            if not address.family:
                description = address.description
            elif address.family == socket.AF_UNIX:
                description = f"unix:{endpoints.quoteStringArgument(address.path)}:mode=600"
            else:
                description = (
                    f"{'tcp6' if address.family == socket.AF_INET6 else 'tcp'}:{address.port}:"
                    f"interface={endpoints.quoteStringArgument(address.host)}"
                )
            outcome: list[Any] = []
            endpoints.serverFromString(self._reactor, description).listen(site).addBoth(
                outcome.append
            )
        except Exception as error:
            raise ListenError("admin", address.text, str(error)) from error
        if not outcome or hasattr(outcome[0], "getErrorMessage"):
            why = outcome[0].value if outcome else "the endpoint does not bind at once"
            reason = getattr(why, "socketError", why)
            raise ListenError("admin", address.text, getattr(reason, "strerror", None) or str(why))
        self._admin_port = outcome[0]

    def _unbind(self) -> list[Any]:
        ports = [listening.port for listening in self._listeners] + [self._admin_port]
        return [defer.maybeDeferred(port.stopListening) for port in ports if port is not None]

    def _drain(self) -> defer.Deferred[Any]:
        waits = self._unbind()
        for listening in self._listeners:
            if listening.door is not None:
                listening.door.close()
            room = listening.room
            if isinstance(room, HttpListener):
                room.drain()
                waits.append(self._emptied(room))
            else:
                waits.append(room.stop(DRAIN))
        waits += [room.stop(DRAIN) for room in self._passing.values()]
        return defer.DeferredList(waits)

    def _emptied(self, room: HttpListener) -> defer.Deferred[None]:
        """Fires when the listener has no connection left; after the bound it has none."""
        done: defer.Deferred[None] = defer.Deferred()
        limit = self._reactor.seconds() + DRAIN

        def look() -> None:
            if room.active and self._reactor.seconds() >= limit:
                room.stop()
            if room.active:
                self._reactor.callLater(0.02, look)
            else:
                done.callback(None)

        look()
        return done

    def _close(self, result: Any) -> Any:
        self._upstreams.stop()
        for cluster in self._clusters.values():
            for endpoint in cluster.endpoints:
                if endpoint.pool is not None:
                    endpoint.pool.close()
        self._certificates.stop()
        stopped = self._chains.stop()
        self._wheel.stop()
        self._logs.close()
        return stopped.addCallback(lambda _: result)

    # AdminState

    def addresses(self) -> dict[str, str]:
        """Listener name → the address it is bound to; ``admin`` too."""
        found = {listening.name: listening.bound for listening in self._listeners}
        if self._admin_port is not None:
            host = self._admin_port.getHost()
            found["admin"] = (
                f"{host.host}:{host.port}" if hasattr(host, "port") else f"unix:{host.name}"
            )
        return found

    def ready(self) -> bool:
        """Whether traffic should come here."""
        return self._serving and self._warm

    def live(self) -> bool:
        """Whether the process works at all: it answered."""
        return True

    def listeners(self) -> list[dict[str, Any]]:
        """The listeners, for the admin; with what became of handshakes, where there is TLS."""
        told = []
        for listening in self._listeners:
            entry = listening.describe()
            handshakes = self._certificates.handshakes(listening.name)
            if handshakes is not None:
                entry["tls"] = handshakes
            told.append(entry)
        return told

    def clusters(self) -> list[dict[str, Any]]:
        """The clusters, for the admin."""
        return self._upstreams.describe()

    def certificates(self) -> list[dict[str, Any]]:
        """The certificates, for the admin."""
        return self._certificates.describe()

    def filters(self) -> list[dict[str, Any]]:
        """The filters, for the admin."""
        return self._chains.describe()

    def shown(self, listener: str, label: str) -> Callable[[], Any] | None:
        """What tells what a filter shows, for the admin; None where there is nothing to show."""
        return self._chains.shown(listener, label)

    def configuration(self) -> dict[str, Any]:
        """The configuration in force, for the admin; secrets of filters are masked."""
        dumped: dict[str, Any] = self.loaded.configuration.model_dump(
            mode="json", exclude_unset=True
        )
        return dumped

    def reopen_logs(self) -> None:
        """Open the access logs anew, after they were moved away."""
        self._logs.reopen()
        logging.msg("access logs reopened")


def make_service(
    loaded: Loaded, announce: Announce | None = None, reactor: Any = None
) -> MeshService:
    """
    The service of a configuration; nothing is opened yet.

    ``announce`` gets the bound addresses by listener name once everything is bound.
    ``reactor`` is the global one unless given. Raises :class:`ConfigError` for what only the
    rooms can judge (an access log's format).
    """
    if reactor is None:
        from twisted.internet import reactor
    return MeshService(loaded, reactor, announce)


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns the limit in force."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft
