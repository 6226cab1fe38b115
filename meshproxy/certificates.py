"""
The TLS of a whole configuration: what its listeners and clusters are made with, and what keeps
their files fresh.

The law it keeps: a file that cannot be used as the proxy starts is an error at its place in the
configuration; one that cannot be used later changes nothing (:mod:`meshproxy.tls.contexts`).  All
files of all listeners and clusters are looked at by one timer, which runs only where there are
some.  Who configures no TLS imports nothing of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from meshproxy.errors import ConfigError

if TYPE_CHECKING:
    import meshproxy.config as config
    from meshproxy.config import Loaded
    from meshproxy.net.wheel import TimerWheel
    from meshproxy.observe.registry import Registry
    from meshproxy.tls.client import ClientTls
    from meshproxy.tls.contexts import ServerContexts
    from meshproxy.tls.expiry import Expiry
    from meshproxy.tls.server import ServerTls
    from meshproxy.tls.watch import Watch


class Certificates:
    """
    Makes the TLS of ``loaded``'s listeners and clusters. ``wall`` tells seconds since 1970.
    """

    def __init__(
        self,
        loaded: Loaded,
        registry: Registry,
        wheel: TimerWheel,
        reactor: Any,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loaded = loaded
        self._registry = registry
        self._wheel = wheel
        self._reactor = reactor
        self._wall = wall
        self._base = os.path.dirname(os.path.abspath(loaded.filename))
        self._contexts: dict[str, ServerContexts] = {}
        self._clients: dict[str, ClientTls] = {}
        self._servers: dict[str, ServerTls] = {}
        self._watch: Watch | None = None
        self._expiry: Expiry | None = None

    # Making.

    def server(
        self, name: str, model: config.Listener, pass_through: Callable[[Any], Any] | None = None
    ) -> ServerTls | None:
        """The TLS of a listener; None where it has none. Raises :class:`ConfigError`."""
        if model.tls is None:
            return None
        from meshproxy.tls.contexts import ServerContexts
        from meshproxy.tls.server import ServerTls

        tls = model.tls
        if tls.alpn is None:
            spoken = ["http/1.1"] if model.http is not None else []
            tls = tls.model_copy(update={"alpn": spoken})
        where = ("listeners", name, "tls")
        try:
            contexts = ServerContexts(tls, name, self._base, self._wall, self._registry)
        except ValueError as error:
            raise self._fault(where, error) from error
        self._contexts[name] = contexts
        watch, expiry = self._fresh()

        def changed() -> bool:
            if contexts.reload():
                expiry.changed()
            return contexts.failing

        watch.add(contexts.looks, changed, contexts.looks)
        watch.after(contexts.tick)
        expiry.add("listener", name, lambda: contexts.pairs)
        server = ServerTls(
            self._reactor,
            self._wheel,
            self._registry,
            name,
            contexts,
            handshake_timeout=tls.handshake_timeout,
            max_handshakes=tls.max_handshakes,
            proxy_protocol=model.proxy_protocol,
            http=model.http is not None,
            pass_through=pass_through,
        )
        self._servers[name] = server
        return server

    def client(self, name: str, model: config.Cluster) -> ClientTls | None:
        """The TLS towards a cluster; None where it has none. Raises :class:`ConfigError`."""
        if model.tls is None:
            return None
        from meshproxy.tls.client import ClientTls

        where = ("clusters", name, "tls")
        try:
            client = ClientTls(model.tls, self._base, self._registry, name)
        except ValueError as error:
            raise self._fault(where, error) from error
        self._clients[name] = client
        watch, expiry = self._fresh()

        def changed() -> bool:
            if client.renew():
                expiry.changed()
            return client.failing

        looks = client.trust.looks
        watch.add(looks, changed, looks)
        if client.trust.pair is not None:
            expiry.add("cluster", name, lambda: [pair for pair in (client.trust.pair,) if pair])
        return client

    def _fresh(self) -> tuple[Watch, Expiry]:
        if self._watch is None or self._expiry is None:
            from meshproxy.tls.expiry import Expiry
            from meshproxy.tls.watch import Watch

            self._watch = Watch(self._reactor)
            self._expiry = Expiry(self._registry, self._wall)
            self._watch.after(self._expiry.look)
        return self._watch, self._expiry

    def _fault(self, where: tuple[str | int, ...], error: ValueError) -> ConfigError:
        """What is wrong, at the option that ``error`` names."""
        at = getattr(error, "at", None)
        if at is None:
            key = getattr(error, "key", None)
            at = () if key is None else (key,)
        return ConfigError((self._loaded.problem((*where, *at), str(error)),))

    # Running.

    def start(self) -> None:
        """Look at the files from now on; tell of certificates that end soon."""
        if self._watch is not None and self._expiry is not None:
            self._expiry.look()
            self._watch.start()

    def stop(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._watch.stop()

    # Telling.

    def describe(self) -> list[dict[str, Any]]:
        """Every certificate, for the admin."""
        told: list[dict[str, Any]] = []
        for contexts in self._contexts.values():
            told += contexts.described()
        now = self._wall()
        for name, client in self._clients.items():
            if client.trust.pair is not None:
                from meshproxy.tls.expiry import describe

                told.append({"cluster": name, "index": 0, **describe(client.trust.pair, now)})
        return told

    def handshakes(self, name: str) -> dict[str, Any] | None:
        """What became of a listener's handshakes; None where it has no TLS."""
        server = self._servers.get(name)
        return None if server is None else server.describe()
