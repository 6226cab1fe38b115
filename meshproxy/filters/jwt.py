"""
The filter ``jwt``: in comes who brings a valid JSON Web Token.

The law it keeps: nothing of a token is used before its signature was verified with a key of a
provider that the configuration names, by an algorithm that this key is for. What the upstream is
told of its claims, no client can say for itself. A token is never logged, shown or kept: what was
verified is remembered under a keyed hash, until the token ends or the keys change.
"""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshproxy.api import Headers, Response
from meshproxy.filters._jwt_keys import KeySet
from meshproxy.filters._jwt_options import ClaimHeader, JwtOptions
from meshproxy.filters._jwt_provider import Provider
from meshproxy.filters._jwt_token import REASONS, Refused, Token, claim_of
from meshproxy.filters._own_headers import OwnHeaders
from meshproxy.filters._places import VERIFIED, Ambiguous, Places
from meshproxy.filters._remembered import Remembered
from meshproxy.interfaces import IContextFilter, IFilterContext, IFilterService, IRequestFilter

__all__ = ["Jwt"]


class _Wait(Exception):
    """Other keys may come: ``news`` fires when they have, or not."""

    def __init__(self, news: Deferred[None]) -> None:
        super().__init__()
        self.news = news


class _Verified:
    """What a token that was verified comes to; good as long as ``keys`` are the provider's."""

    __slots__ = ("fields", "keys", "metadata", "provider")

    def __init__(
        self, provider: Provider, keys: KeySet, metadata: dict[str, Any], fields: list[Any]
    ) -> None:
        self.provider = provider
        self.keys = keys
        self.metadata = metadata
        self.fields = fields


@implementer(IRequestFilter, IContextFilter, IFilterService)
class Jwt:
    """
    Let in who brings a token that one of the providers signed. Others get 401.

    Its claims are in the metadata as ``jwt.CLAIM``, the provider's name as ``jwt_provider``.
    """

    Options = JwtOptions

    def __init__(self, options: JwtOptions) -> None:
        self._providers = [Provider(name, given) for name, given in options.providers.items()]
        self._places = Places(options.look_in)
        self._optional = options.optional
        self._forward = options.forward
        self._headers = tuple(
            (name.encode(), given) for name, given in options.claims_to_headers.items()
        )
        self._own = OwnHeaders(options.claims_to_headers)
        self._shown = options.metadata
        self._longest = options.max_token
        self._known: Remembered[_Verified] = Remembered(options.remembered)
        self._realm = options.realm.replace("\\", "\\\\").replace('"', '\\"')
        self._refusals = {
            (reason, status): self._answer(reason, status)
            for reason in REASONS
            for status in (401, 503)
        }

    def _answer(self, reason: str, status: int) -> tuple[int, bytes, list[Any], bytes]:
        text = REASONS[reason]
        ask = f'Bearer realm="{self._realm}"'
        if reason != "missing":
            ask += f', error="invalid_token", error_description="{text}"'
        headers = [(b"www-authenticate", ask.encode())] if status == 401 else []
        return status, text.encode(), headers, f"jwt_{reason}".encode()

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._time = context.time
        self._allowed = context.counter("allowed", "Requests with a valid token")
        self._without = context.counter("without", "Requests let through without a token")
        self._verified = context.counter("verified", "Tokens that were verified, not remembered")
        self._refused = {
            reason: context.counter("refused", "Requests refused", reason=reason)
            for reason in REASONS
        }
        for provider in self._providers:
            provider.attach(context)
        context.show(lambda: [provider.describe() for provider in self._providers])

    def start(self) -> None:
        """Part of ``IFilterService``: get the keys. Raises ``ValueError`` for a bad file."""
        for provider in self._providers:
            provider.start()

    def stop(self) -> None:
        """Part of ``IFilterService``."""
        for provider in self._providers:
            provider.stop()
        self._known.clear()

    def request(self, exchange: Any) -> Any:
        """Part of ``IRequestFilter``."""
        self._places.conceal(exchange)
        request = exchange.request
        try:
            found = self._places.find(request)
        except Ambiguous:
            return self._refuse(Refused("ambiguous"))
        if found is None:
            if not self._optional:
                return self._refuse(Refused("missing"))
            self._without.inc()
            self._own.remove_from(request.headers)
            return None
        place, text = found
        key = self._known.key(text)
        now = self._time()
        held = self._known.get(key, now)
        if held is None or held.provider.keys is not held.keys:
            try:
                held = self._verify(key, text, now)
            except Refused as refused:
                return self._refuse(refused)
            except _Wait as wait:
                return self._later(exchange, place, key, text, wait.news)
        self._pass(exchange, place, held)
        return None

    async def _later(
        self, exchange: Any, place: int, key: bytes, text: bytes, news: Deferred[None]
    ) -> Response | None:
        """The same once other keys have come, or not."""
        await news
        try:
            held = self._verify(key, text, self._time(), wait=False)
        except Refused as refused:
            return self._refuse(refused)
        self._pass(exchange, place, held)
        return None

    def _verify(self, key: bytes, text: bytes, now: float, *, wait: bool = True) -> _Verified:
        """Verify a token. Raises :class:`Refused`, and :class:`_Wait` if it may be waited."""
        token = Token(text, self._longest)
        algorithm = token.algorithm
        issuer = token.claims.get("iss")
        refused = Refused("issuer")
        news: Deferred[None] | None = None
        for provider in self._providers:
            if provider.issuer is not None and provider.issuer != issuer:
                continue
            if not provider.takes(algorithm):
                refused = refused.or_rather(Refused("algorithm"))
                continue
            keys = provider.keys
            if keys is None:
                refused = refused.or_rather(Refused("unavailable", provider.unavailable))
            else:
                candidates = keys.for_token(token.kid, algorithm)
                for candidate in candidates:
                    if candidate.verifies(algorithm, token.signed, token.signature):
                        try:
                            return self._good(key, token, provider, keys, now)
                        except Refused as unfit:
                            refused = refused.or_rather(unfit)
                            break
                if candidates:
                    refused = refused.or_rather(Refused("wrong_signature"))
                    continue
                refused = refused.or_rather(Refused("unknown_key"))
            if wait and news is None and provider.remote is not None:
                news = provider.remote.news()
        if news is not None:
            raise _Wait(news)
        raise refused

    def _good(
        self, key: bytes, token: Token, provider: Provider, keys: KeySet, now: float
    ) -> _Verified:
        """The signature is right: look at what the token says."""
        end = provider.judge(token, now)
        fields = []
        for name, given in self._headers:
            value = claim_of(token.claims, given.claim)
            if value is not None:
                fields += Headers.of([(name, _header_value(value, given))]).fields
        verified = _Verified(provider, keys, self._facts(token, provider), fields)
        self._verified.inc()
        self._known.put(key, verified, end)
        return verified

    def _facts(self, token: Token, provider: Provider) -> dict[str, Any]:
        claims = token.claims
        names = claims if self._shown is None else self._shown
        facts: dict[str, Any] = {"jwt_provider": provider.name}
        for name in names:
            value = claim_of(claims, name) if self._shown is not None else claims[name]
            if isinstance(value, (dict, list)):
                value = _json(value)
            if value is not None:
                facts[f"jwt.{name}"] = value
        try:
            # Whoever reads them writes them as UTF-8, which half a surrogate pair cannot be.
            "".join(map(str, (*facts, *facts.values()))).encode()
        except UnicodeEncodeError:
            raise Refused("malformed") from None
        return facts

    def _pass(self, exchange: Any, place: int, held: _Verified) -> None:
        self._allowed.inc()
        exchange.metadata.update(held.metadata)
        exchange.notes[VERIFIED] = True
        request = exchange.request
        self._places.strip(request, place if self._forward else -1)
        headers = request.headers
        self._own.remove_from(headers)
        headers.fields += held.fields

    def _refuse(self, refused: Refused) -> Response:
        reason = refused.reason
        self._refused[reason].inc()
        status, body, headers, details = self._refusals[reason, refused.status]
        return Response(status, body, headers, details=details)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _header_value(value: Any, given: ClaimHeader) -> bytes:
    """A claim as a header's value. Raises :class:`Refused`."""
    text = value if isinstance(value, str) else _json(value)
    try:
        if given.encoding == "percent":
            return quote(text, safe="").encode()
        if given.encoding == "base64url":
            return base64.urlsafe_b64encode(text.encode()).rstrip(b"=")
    except UnicodeEncodeError:  # half of a surrogate pair
        raise Refused("header") from None
    if not (text.isascii() and text.isprintable() and text == text.strip()):
        raise Refused("header")
    return text.encode()
