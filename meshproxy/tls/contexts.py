"""
What a listener shows its TLS clients: which certificate, under which conditions.

The laws it keeps:

- What is shown was read and checked as a whole. A reload takes each certificate, and what clients
  are asked for, over by itself and at once; a file that is broken, or a chain whose key has not
  come yet, changes nothing, is told once for each change of it and counted.
- A client gets every certificate that bears the name it asks for, one for each kind of key, in one
  context: OpenSSL takes the one that the client can use, ECDSA before RSA.
- Sessions live in tickets, never here; the tickets of a context whose certificate, client CA or
  revocation list changed are worth nothing, as its keys went with it.
- Processes forked after :meth:`ServerContexts.prepare` resume each other's sessions, through as
  many new keys as were prepared.
- Picking costs two dictionaries, and nothing of OpenSSL.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from OpenSSL import SSL
from twisted.python import log

from meshproxy.observe.registry import Registry
from meshproxy.tls.alpn import Alpn
from meshproxy.tls.clients import Clients
from meshproxy.tls.expiry import describe
from meshproxy.tls.hello import Hello, plain_name
from meshproxy.tls.material import Pair, Seen, TlsFileError, seen, use_pair
from meshproxy.tls.names import NameTable
from meshproxy.tls.ocsp import Stapler
from meshproxy.tls.settings import apply, binding, ffi, key_log_at
from meshproxy.tls.shown import Shown, bearers
from meshproxy.tls.tickets import Generations, Schedule

if TYPE_CHECKING:
    from cryptography import x509

    from meshproxy.config.tls import ListenerTls

__all__ = ["ServerContexts"]

TURNED_AT_ONCE: Final = 4
"""Contexts that one :meth:`ServerContexts.tick` renews: a few milliseconds, whatever there are."""

_UNRECOGNIZED_NAME: Final = 112
_ALERT: Final = 2  # SSL_TLSEXT_ERR_ALERT_FATAL


class _Group:
    """Certificates that are shown side by side, and the contexts that show them."""

    __slots__ = ("generations", "pairs", "stapler")

    def __init__(
        self, pairs: tuple[Pair, ...], stapler: Stapler | None, generations: Generations
    ) -> None:
        self.pairs = pairs
        self.stapler = stapler
        self.generations = generations


class ServerContexts:
    """
    The contexts of listener ``name``.

    ``base`` is the folder that the configuration's paths are relative to; ``wall`` tells seconds
    since 1970. Raises :class:`~meshproxy.tls.material.TlsFileError` and
    :class:`~meshproxy.tls.settings.BadSetting`, both ``ValueError`` with the ``key`` at fault.
    ``alpn`` that is None is none.
    """

    def __init__(
        self,
        config: ListenerTls,
        name: str,
        base: str,
        wall: Callable[[], float],
        registry: Registry | None = None,
    ) -> None:
        self.name = name
        self._config = config
        self._base = base
        self._wall = wall
        self._refuse = config.unknown_names == "refuse"
        self._alpn = Alpn(config.alpn) if config.alpn else None
        self._key_log = key_log_at(os.path.join(base, config.key_log)) if config.key_log else None
        self._counts = None if registry is None else _counts(registry, name)
        self._values: list[float] = [] if registry is None else registry.values
        # What was told of broken files, and how they looked; by entry, so bounded.
        self._told: dict[object, object] = {}
        self._doubts: list[str] = []
        #: Whether something could not be read, or used, the last time.
        self.failing = False
        # Whether what was read is not shown yet.
        self._due = False
        now = wall()
        self._clients = None if config.client_ca is None else Clients(config, base)
        self._doubt(now)
        self._shown: list[Shown] = []
        for index, one in enumerate(config.certificates):
            try:
                self._shown.append(Shown(one, base, now, self._tell))
            except TlsFileError as error:
                error.at = ("certificates", index, error.key)
                raise
        tickets = config.tickets
        self._schedule = Schedule(now, tickets.rotate) if tickets else None
        # Whether all keys come from before a fork, as far as is known here.
        self._sharing = False
        self._groups: dict[bytes, _Group] = {}
        self._front: SSL.Context | None = None
        self._arrange()

    # Choosing.

    def pick(self, hello: Hello) -> SSL.Context | None:
        """The context for a client; None: it asks for a name that is refused."""
        name = hello.server_name
        group = self._get(name) if name else self._default
        if group is None:
            if self._refuse:
                return None
            group = self._default
        if hello.ticket and group.known:
            return group.known.get(hello.ticket, group.current)
        return group.current

    @property
    def front(self) -> SSL.Context:
        """
        A context that picks by itself, for where no hello is read beforehand.

        Its tickets are its own and its process's, and forgotten whenever the certificates or the
        keys change.
        """
        front = self._front
        if front is None:
            group = self._default_group
            front = self._front = self._context(group.pairs, group.stapler)
            callback = ffi.callback("int (*)(SSL *, int *, void *)", self._asked, error=_ALERT)
            binding.SSL_CTX_set_tlsext_servername_callback(vars(front)["_context"], callback)
            _keep(front, callback)
        return front

    def _asked(self, ssl: Any, alert: Any, data: Any) -> int:
        asked = binding.SSL_get_servername(ssl, binding.TLSEXT_NAMETYPE_host_name)
        name = b"" if asked == ffi.NULL else plain_name(ffi.string(asked))
        group = self._get(name) if name else self._default
        if group is None:
            if self._refuse:
                alert[0] = _UNRECOGNIZED_NAME
                return _ALERT
        elif group is not self._default:
            connection: Any = vars(SSL.Connection)["_reverse_mapping"][ssl]
            if connection.get_app_data() is None:
                # OpenSSL asks the first context again, where a second hello comes: it must not
                # go, should another one be the front by then.
                connection.set_app_data(connection.get_context())
            connection.set_context(group.current)
        return 0

    def outlived(self, connection: SSL.Connection) -> bool:
        """
        Whether a session was resumed whose client's certificate has expired by now, or the list
        that it was looked up in.

        OpenSSL looks at that only when a certificate comes, that is, in a full handshake.
        """
        if self._clients is None:
            return False
        ask: Any = connection
        if binding.SSL_session_reused(ask._ssl) != 1:
            return False
        certificate = ask.get_peer_certificate()
        if certificate is None:
            return self._clients.required
        found: x509.Certificate = certificate.to_cryptography()
        now = self._wall()
        if found.not_valid_after_utc.timestamp() <= now:
            return True
        return self._clients.stale(found.issuer, now)

    # Changing.

    def tick(self) -> None:
        """
        What is due now and then: new keys for tickets, a few at a time; old ones are forgotten.
        """
        now = self._wall()
        self._doubt(now)
        for shown in self._shown:
            shown.look(now, self._tell)
        if self._schedule is None:
            return
        number = self._schedule.due(now)
        turned = 0
        for group in self._groups.values():
            generations = group.generations
            generations.expire(now)
            if turned < TURNED_AT_ONCE and generations.number < number:
                turned += 1
                self._turn(group, number, now)

    def rotate(self) -> None:
        """
        Renew the keys of all tickets now, and from now on one change ahead of the schedule.

        Processes that share keys use the same ones at the same time if this happens in all.
        """
        if self._schedule is not None:
            self._schedule.hasten()
            self._turn_all(self._schedule)

    def prepare(self, count: int) -> None:
        """
        Have the next ``count`` generations of each context ready: what is forked shares them.

        Each process takes the same at the same time, by the wall clock, and knows all of them by
        the names of their keys. When they are used up each goes on with keys of its own. Sharing
        also ends for what a reload changes, as each process then makes contexts anew: until the
        workers are forked anew, after another call of this.

        One context ahead costs 26 KB with an ECDSA certificate, 31 KB with RSA, 36 KB with both,
        which children have in common with their parent, and 2 ms for a handshake in memory.
        """
        if self._schedule is None:
            return
        self._turn_all(self._schedule)
        for group in self._groups.values():
            group.generations.prepare(count, partial(self._context, group.pairs, group.stapler))
        self._sharing = self.prepared > 0

    @property
    def prepared(self) -> int:
        """How many generations are left of those prepared, where the fewest are."""
        return min(group.generations.prepared for group in self._groups.values())

    def _turn_all(self, schedule: Schedule) -> None:
        now = self._wall()
        number = schedule.due(now)
        for group in self._groups.values():
            if group.generations.number < number:
                self._turn(group, number, now)

    def _turn(self, group: _Group, number: int, now: float) -> None:
        tickets = self._config.tickets
        lifetime = tickets.lifetime if tickets else 0.0
        make = partial(self._context, group.pairs, group.stapler)
        if not group.generations.turn(number, now, lifetime, make):
            self._alone()
        self._front = None

    def _alone(self) -> None:
        """Tell, once, that there are keys of tickets that other processes do not have."""
        if self._sharing:
            self._sharing = False
            self._tell(
                "tickets: no prepared key is left, of all or of what has changed: "
                "sessions that begin from now on are resumed in this process only"
            )

    def reload(self) -> bool:
        """
        Read all files anew and show what they hold from the next handshake on.

        What is broken stays as it was, and the log says so. Returns whether anything changed.
        """
        now = self._wall()
        failed = 0
        self.failing = False
        if self._clients is not None:
            try:
                clients = Clients(self._config, self._base)
            except ValueError as error:
                failed += self._broken("client_ca", self._clients.looks, error)
            else:
                self._told.pop("client_ca", None)
                if clients.digest != self._clients.digest:
                    self._clients = clients
                    self._due = True
                    self._tell("client_ca is taken over")
                    self._doubt(now)
        for index, shown in enumerate(self._shown):
            try:
                if shown.reload(now, self._tell):
                    self._due = True
                    self._tell(f"certificate={shown.pair.files[0]} is taken over")
            except ValueError as error:
                failed += self._broken(index, shown.looks, error)
            else:
                self._told.pop(index, None)
        changed = self._due
        if changed:
            self._arrange()
        if self._counts is not None:
            self._values[self._counts[0]] += changed
            self._values[self._counts[1]] += failed > 0
        return changed

    def _broken(self, what: object, looks: dict[str, Seen], error: ValueError) -> int:
        """Tell of a broken file, and of the same no second time; whether it was told."""
        self.failing = True
        told = str(error), [seen(path) for path in looks]
        if self._told.get(what) == told:
            return 0
        self._told[what] = told
        self._tell(f"{getattr(error, 'key', 'tls')}: {error}; what was in force stays")
        return 1

    def _tell(self, text: str) -> None:
        log.msg(f"tls listener={self.name} {text}")

    def _doubt(self, now: float) -> None:
        """Tell when a list of revoked certificates turns away more than those."""
        doubts = [] if self._clients is None else self._clients.doubts(now)
        for doubt in doubts:
            if doubt not in self._doubts:
                self._tell(f"client_crl: {doubt}")
        self._doubts = doubts

    # Making.

    def _arrange(self) -> None:
        """Make a group of what each name is borne by, of old contexts where nothing changed."""
        groups: dict[bytes, _Group] = {}
        table: NameTable[Generations] = NameTable()
        shown = self._shown
        indices = bearers([one.pair for one in shown])
        default = indices[""]
        made = {}
        for borne in {default, *indices.values()}:
            made[borne] = self._group([shown[index] for index in borne], groups)
        for index in set(range(len(shown))).difference(*indices.values()):
            # Neither at the first place nor the first with any name.
            digest, files = shown[index].pair.digest, shown[index].pair.files
            if self._told.get(("beside", index)) != digest:
                self._told["beside", index] = digest
                self._tell(f"certificate={files[0]} is never shown: others bear all its names")
        for name, borne in indices.items():
            table.add(name.encode(), made[borne].generations)
        # From here on nothing fails.
        self._groups = groups
        self._get = table.get
        self._default_group = made[default]
        self._default = made[default].generations
        self._front = None
        self._due = False

    def _group(self, shown: Sequence[Shown], groups: dict[bytes, _Group]) -> _Group:
        pairs = tuple(one.pair for one in shown)
        stapled = any(one.stapled for one in shown)
        digest = sha256(b"".join(pair.digest for pair in pairs) + bytes([stapled]))
        if self._clients is not None:
            digest.update(self._clients.digest)
        key = digest.digest()
        group = groups.get(key) or self._groups.get(key)
        if group is None:
            stapler = Stapler(self._wall) if stapled else None
            number = 1 if self._schedule is None else self._schedule.due(self._wall())
            group = _Group(pairs, stapler, Generations(self._context(pairs, stapler), number))
            self._alone()
        if group.stapler is not None:
            for one in shown:
                group.stapler.replace(one.pair.kind, one.staple)
        groups[key] = group
        return group

    def _context(self, pairs: Sequence[Pair], stapler: Stapler | None) -> SSL.Context:
        config = self._config
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        apply(
            context,
            min_version=config.min_version,
            max_version=config.max_version,
            ciphers=config.ciphers,
            curves=config.curves,
            key_log=self._key_log,
        )
        for pair in pairs:
            use_pair(context, pair)
        plain: Any = context
        # No session is resumed at another listener, nor under other conditions for clients.
        scope = sha256(self.name.encode())
        if self._clients is not None:
            scope.update(self._clients.digest)
            self._clients.apply(context)
        plain.set_session_id(scope.digest())
        plain.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        if config.tickets:
            plain.set_timeout(max(1, int(config.tickets.lifetime)))
        else:
            context.set_options(SSL.OP_NO_TICKET)
        if self._alpn is not None:
            self._alpn.apply(context)
        if stapler is not None:
            stapler.apply(context)
        # OpenSSL knows these by their addresses only.
        _keep(context, self._clients, self._alpn, stapler)
        return context

    # Telling.

    @property
    def looks(self) -> dict[str, Seen]:
        """How each file looked when it was read, for what watches them."""
        looks = {} if self._clients is None else dict(self._clients.looks)
        for one in self._shown:
            looks |= one.looks
        return looks

    @property
    def pairs(self) -> list[Pair]:
        """The certificates in force, in the configuration's order."""
        return [one.pair for one in self._shown]

    def described(self) -> list[dict[str, Any]]:
        """Each certificate for ``/certs``, of what JSON can hold."""
        now = self._wall()
        told = []
        for index, one in enumerate(self._shown):
            entry = {"listener": self.name, "index": index, **describe(one.pair, now)}
            entry["ocsp"] = None if one.staple is None else one.staple.state(now)
            numbers = [
                group.generations.number
                for group in self._groups.values()
                if any(pair.digest == one.pair.digest for pair in group.pairs)
            ]
            entry["ticket_generation"] = max(numbers, default=0) if self._config.tickets else None
            told.append(entry)
        return told


def _keep(context: SSL.Context, *what: object) -> None:
    """Have ``what`` live as long as ``context``."""
    keeper: Any = context
    keeper.set_app_data((keeper.get_app_data(), *what))


def _counts(registry: Registry, name: str) -> tuple[int, int]:
    labels = {"listener": name}
    return (
        registry.counter(
            "meshproxy_tls_reloads_total", "Changes of certificate files taken over", labels
        ),
        registry.counter(
            "meshproxy_tls_reload_failures_total",
            "Changes of certificate files that were broken, so that the old ones stayed",
            labels,
        ),
    )
