"""
The filter ``basic_auth``: a user and a password (RFC 7617).

The law it keeps: the reactor's thread never verifies a password; so many are verified at a time
and so many wait, and the next one is told to come back. What was verified is remembered for a
while as a keyed hash, never as text. A user that is not there costs as much time as one that is.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Duration, Field, HeaderName, HeaderText, Response, Unfit
from meshproxy.filters._own_headers import OwnHeaders, no_framing
from meshproxy.filters._passwords import Hash, Users, parse_hash, parse_htpasswd, parse_user
from meshproxy.filters._places import VERIFIED
from meshproxy.filters._remembered import Remembered
from meshproxy.filters._watched_file import WatchedFile
from meshproxy.interfaces import IContextFilter, IFilterContext, IFilterService, IRequestFilter

__all__ = ["BasicAuth"]

_LONGEST = 4096
"""Bytes of credentials that are looked at."""

Aside = Callable[[Callable[[bytes, bytes], bool], bytes, bytes], "Deferred[bool]"]
"""Calls a function in another thread."""


def _user(value: str) -> str:
    try:
        parse_user(value)
    except ValueError as error:
        raise Unfit(str(error)) from None
    return value


@implementer(IRequestFilter, IContextFilter, IFilterService)
class BasicAuth:
    """
    Let in who knows a user's password. Others get 401, and their browser asks for it.

    The user is in the metadata as ``user``. ``aside`` runs a verification in another thread; None
    is the reactor's pool of threads.
    """

    class Options(api.Options):
        """Who may come in, and how much verifying may cost."""

        exactly_one: ClassVar[tuple[str, ...]] = ("users", "file")

        users: dict[Annotated[str, AfterValidator(_user)], str] | None = Field(
            default=None,
            min_length=1,
            repr=False,
            description="Users and the bcrypt or argon2 hashes of their passwords, as `htpasswd "
            "-nB USER` prints them.",
        )
        file: str | None = Field(
            default=None,
            min_length=1,
            description="An htpasswd file, relative to the configuration's. It is read again when "
            "it changes; one that is no good changes nothing.",
        )
        allow_weak: bool = Field(
            default=False, description="Take `{SHA}` hashes too, which are quick to break."
        )
        realm: HeaderText = Field(
            default="meshproxy", description="What browsers show when they ask for a password."
        )
        forward_user: HeaderName | None = Field(
            default=None,
            description="A header that tells the upstream the user; a client's own is removed.",
        )
        forward_credentials: bool = Field(
            default=False, description="Send `authorization` on, with the password in it."
        )
        verifications: int = Field(
            default=2, ge=1, le=64, description="Passwords that are verified at a time."
        )
        queue: int = Field(
            default=100,
            ge=0,
            le=10000,
            description="Requests that wait to be verified; further ones get 503.",
        )
        remember: Duration = Field(
            default=300.0,
            description="How long a password that was right is not verified again; 0 is never.",
        )
        remembered: int = Field(
            default=1000, ge=0, le=100000, description="How many passwords are remembered."
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield hashes that are none, and a header that cannot be set."""
            yield from super().faults(given)
            yield from no_framing([given.get("forward_user", "")], "forward_user")
            users = given.get("users")
            weak = given.get("allow_weak") is True
            for name, held in users.items() if isinstance(users, Mapping) else ():
                if isinstance(held, str):
                    try:
                        parse_hash(held, weak)
                    except ValueError as error:
                        yield Unfit(str(error), at=("users", name))

    def __init__(self, options: Options, aside: Aside | None = None) -> None:
        self._options = options
        self._users: Users | None = None
        if options.users is not None:
            self._users = Users(
                {
                    parse_user(name): parse_hash(held, options.allow_weak)
                    for name, held in options.users.items()
                }
            )
        self._file: WatchedFile[Users] | None = None
        realm = options.realm.replace("\\", "\\\\").replace('"', '\\"')
        self._ask = f'Basic realm="{realm}", charset="UTF-8"'.encode()
        name = options.forward_user
        self._forward_user = None if name is None else name.encode()
        self._own = OwnHeaders([name] if name else ())
        self._forward_credentials = options.forward_credentials
        self._slots = DeferredSemaphore(options.verifications)
        self._queue = options.queue
        self._remember = options.remember
        # The hash that verified a password: another one in its place makes it unknown again.
        self._known: Remembered[Hash] = Remembered(options.remembered if options.remember else 0)
        self._aside = aside

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._now = context.now
        self._log = context.log
        counter = context.counter
        self._allowed = counter("allowed", "Requests with the right password")
        self._missing = counter("missing", "Requests without a password")
        self._wrong = counter("wrong", "Requests with a wrong password, or of an unknown user")
        self._overflow = counter("overflow", "Requests for which there was no room to wait")
        self._verified = counter("verifications", "Passwords that were verified, not remembered")
        self._failures = counter("file_failures", "Times that a changed file was no good")
        if self._aside is None:
            reactor: Any = context.reactor
            self._aside = lambda function, user, password: deferToThreadPool(
                reactor, reactor.getThreadPool(), function, user, password
            )
        if self._options.file is not None:
            self._file = WatchedFile(
                context.path(self._options.file),
                partial(parse_htpasswd, allow_weak=self._options.allow_weak),
                context.now,
                self._changed,
                self._failed,
            )

    def start(self) -> None:
        """Part of ``IFilterService``: read the file. Raises ``ValueError``."""
        if self._file is not None:
            self._users = self._file.load()

    def stop(self) -> None:
        """Part of ``IFilterService``."""
        self._known.clear()

    def _changed(self, users: Users) -> None:
        self._users = users
        self._known.clear()
        self._log(f"the htpasswd file was read again: {len(users)} users")

    def _failed(self, reason: str) -> None:
        self._failures.inc()
        self._log(f"the htpasswd file is no good, the users before it stay: {reason}")

    def request(self, exchange: Any) -> Any:
        """Part of ``IRequestFilter``."""
        if self._file is not None:
            self._file.look()
        values = exchange.request.headers.get_all(b"authorization")
        if not values:
            self._missing.inc()
            return self._refusal(b"basic_auth_missing")
        if len(values) > 1 or len(values[0]) > _LONGEST:
            self._wrong.inc()
            return self._refusal(b"basic_auth_malformed")
        scheme, _, encoded = values[0].partition(b" ")
        if scheme.lower() != b"basic":
            self._missing.inc()
            return self._refusal(b"basic_auth_missing")
        try:
            credentials = binascii.a2b_base64(encoded.strip(b" "), strict_mode=True)
        except binascii.Error:
            credentials = b""
        user, colon, password = credentials.partition(b":")
        if not colon:
            self._wrong.inc()
            return self._refusal(b"basic_auth_malformed")
        key = self._known.key(user, password)
        if self._remembers(key, user):
            self._pass(exchange, user)
            return None
        if len(self._slots.waiting) >= self._queue and not self._slots.tokens:
            self._overflow.inc()
            return Response(
                503,
                b"too many passwords to verify",
                [(b"retry-after", b"1")],
                details=b"basic_auth_overflow",
            )
        return self._wait(exchange, key, user, password)

    def _remembers(self, key: bytes, user: bytes) -> bool:
        held = self._known.get(key, self._now())
        return held is not None and self._users is not None and self._users.hash_of(user) is held

    async def _wait(
        self, exchange: Any, key: bytes, user: bytes, password: bytes
    ) -> Response | None:
        """Verify, as soon as it is this request's turn."""
        await self._slots.acquire()
        # The same client may have come several times at once: one verification is enough.
        if self._remembers(key, user):
            self._slots.release()
            self._pass(exchange, user)
            return None
        users, aside = self._users, self._aside
        assert users is not None
        assert aside is not None
        self._verified.inc()
        held = users.hash_of(user)
        done: Deferred[bool] = Deferred()
        # A thread cannot be cancelled: its place is free when it has ended, whoever still waits.
        aside(users.check, user, password).addBoth(self._verified_one, done)
        if not await done:
            self._wrong.inc()
            return self._refusal(b"basic_auth_wrong")
        if held is not None:
            self._known.put(key, held, self._now() + self._remember)
        self._pass(exchange, user)
        return None

    def _verified_one(self, result: bool | Failure, done: Deferred[bool]) -> None:
        # The next one in the line may have the same password: it is remembered by then.
        if not done.called:
            done.callback(result)
        self._slots.release()

    def _pass(self, exchange: Any, user: bytes) -> None:
        self._allowed.inc()
        exchange.metadata["user"] = user.decode()
        exchange.notes[VERIFIED] = True
        headers = exchange.request.headers
        if not self._forward_credentials:
            headers.remove(b"authorization")
        if self._forward_user is not None:
            self._own.remove_from(headers)
            headers.add(self._forward_user, user)

    def _refusal(self, details: bytes) -> Response:
        return Response(
            401,
            b"a user and a password are needed",
            [(b"www-authenticate", self._ask)],
            details=details,
        )
