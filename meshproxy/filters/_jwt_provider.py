"""
Somebody whose tokens the filter ``jwt`` trusts, with the keys that are at hand.

The law it keeps: keys are read when the proxy starts, so that a bad file keeps it from starting;
later a bad file or answer changes nothing, and is counted and told. Keys that changed are another
set, so that whatever the old one verified can be seen to be old.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from meshproxy.filters._jwt_keys import ASYMMETRIC, KeySet, read_jwks, read_pem, read_secret
from meshproxy.filters._jwt_options import ProviderOptions
from meshproxy.filters._jwt_remote import RemoteKeys
from meshproxy.filters._jwt_token import Refused, Token, check_times, claim_of, has_audience, holds
from meshproxy.filters._watched_file import WatchedFile

__all__ = ["Provider"]

_READERS: dict[str, Any] = {
    "jwks_file": read_jwks,
    "public_key_file": read_pem,
    "secret_file": read_secret,
}


class Provider:
    """A provider; ``keys`` is None while there are none."""

    __slots__ = (
        "_allowed",
        "_audiences",
        "_claims",
        "_failures",
        "_fetched",
        "_file",
        "_leeway",
        "_log",
        "_options",
        "_require_expiry",
        "_set",
        "issuer",
        "name",
        "remote",
        "unavailable",
    )

    def __init__(self, name: str, options: ProviderOptions) -> None:
        self.name = name
        self.issuer = options.issuer
        self.unavailable = options.unavailable
        self.remote: RemoteKeys | None = None
        self._options = options
        # What a service publishes is no secret, unless it was said that it is.
        self._allowed: frozenset[str] | None = None
        if options.jwks_url is not None:
            self._allowed = frozenset(options.algorithms or ASYMMETRIC)
        self._audiences = frozenset(options.audiences)
        self._claims = tuple(options.claims.items())
        self._leeway = options.leeway
        self._require_expiry = options.require_expiry
        self._file: WatchedFile[KeySet] | None = None
        self._set: KeySet | None = None
        if options.jwks is not None:
            self._set = KeySet(read_jwks(options.jwks), options.algorithms)

    def attach(self, context: Any) -> None:
        """Ask for counters, and find the file."""
        options = self._options
        self._log = context.log
        self._failures = context.counter(
            "key_failures", "Times that no good keys were got", provider=self.name
        )
        self._fetched = context.counter(
            "key_fetches", "Times that keys were got by HTTP", provider=self.name
        )
        for option, read in _READERS.items():
            path = getattr(options, option)
            if path is not None:
                self._file = WatchedFile(
                    context.path(path),
                    partial(_parse, read, options.algorithms),
                    context.now,
                    self._changed,
                    self._failed,
                )
        if options.jwks_url is not None:
            self.remote = RemoteKeys(
                options.jwks_url,
                context,
                allowed=self._allowed or ASYMMETRIC,
                refresh=options.refresh,
                cooldown=options.cooldown,
                timeout=options.timeout,
                said=self._said,
            )

    def start(self) -> None:
        """Read the file, or ask for the keys. Raises ``ValueError`` for a bad file."""
        if self._file is not None:
            try:
                self._set = self._file.load()
            except ValueError as error:
                raise ValueError(f"the keys of '{self.name}': {error}") from None
        if self.remote is not None:
            self.remote.start()

    def stop(self) -> None:
        """Cancel what is under way."""
        if self.remote is not None:
            self.remote.stop()

    @property
    def keys(self) -> KeySet | None:
        """The keys at hand; a file is looked at once a second."""
        if self._file is not None:
            self._file.look()
            return self._set
        return self._set if self.remote is None else self.remote.keys

    def takes(self, algorithm: str) -> bool:
        """Whether tokens may be signed like this."""
        if self._allowed is not None:
            return algorithm in self._allowed
        keys = self.keys
        return keys is not None and algorithm in keys.algorithms

    def judge(self, token: Token, now: float) -> float:
        """
        What a token whose signature was verified says: returns when it ends (seconds since
        1970). Raises :class:`Refused`.
        """
        claims = token.claims
        end = check_times(claims, now, self._leeway, self._require_expiry)
        if self._audiences and not has_audience(claims, self._audiences):
            raise Refused("audience")
        for path, wanted in self._claims:
            if not holds(claim_of(claims, path), wanted):
                raise Refused("claim")
        return end

    def describe(self) -> dict[str, Any]:
        """For the admin: no key, no token."""
        keys = self._set if self.remote is None else self.remote.keys
        return {
            "name": self.name,
            "issuer": self.issuer,
            "keys": None if keys is None else len(keys),
            "algorithms": [] if keys is None else sorted(keys.algorithms),
            "failures": self._failures.value,
        }

    def _changed(self, keys: KeySet) -> None:
        self._set = keys
        self._log(f"the keys of '{self.name}' were read again: {len(keys)} keys")

    def _failed(self, reason: str) -> None:
        self._failures.inc()
        self._log(f"the keys of '{self.name}' are no good, those before stay: {reason}")

    def _said(self, good: bool, reason: str) -> None:
        if good:
            self._fetched.inc()
        else:
            self._failures.inc()
            self._log(f"no keys of '{self.name}' by HTTP: {reason}")


def _parse(read: Any, allowed: Sequence[str] | None, content: bytes) -> KeySet:
    return KeySet(read(content), allowed)
