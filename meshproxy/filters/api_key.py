"""
The filter ``api_key``: in comes who brings a key.

The law it keeps: keys are hashed as soon as they are here, and compared as hashes, so that no
comparison tells by its time how much of a key was right; the key itself is neither kept nor shown,
and it is sent on only where the configuration says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import Field, HeaderName, HeaderText, Response, Unfit
from meshproxy.filters._own_headers import OwnHeaders, no_framing
from meshproxy.filters._places import VERIFIED, Ambiguous, LookIn, Place, Places
from meshproxy.filters._watched_file import WatchedFile
from meshproxy.interfaces import IContextFilter, IFilterContext, IFilterService, IRequestFilter

__all__ = ["ApiKey"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_.@-]{1,128}")
_FACT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST = 4096
_SHORTEST = 16

Fact = str | int | float | bool
"""A fact about a key."""


def _digest(value: str) -> str:
    digest = value.lower()
    if not _DIGEST.fullmatch(digest):
        raise Unfit(
            "64 hexadecimal digits are expected, as `printf %s KEY | sha256sum` prints them; a "
            "key itself is written as {plain: KEY}"
        )
    return digest


def _plain(value: str) -> str:
    if not _SHORTEST <= len(value) <= _LONGEST:
        raise Unfit(f"a key has {_SHORTEST} to {_LONGEST} characters: whoever can guess it is in")
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise Unfit("a key's name is up to 128 letters, digits, '_', '.', '@' and '-'")
    return value


def _fact(value: str) -> str:
    if not _FACT.fullmatch(value):
        raise Unfit("a fact's name is up to 64 letters, digits, '_' and '-'")
    return value


class Key(api.Options):
    """A key. Its SHA-256 alone stands for `{sha256: ...}`."""

    exactly_one: ClassVar[tuple[str, ...]] = ("sha256", "plain")
    shorthand: ClassVar[str] = "sha256"

    sha256: Annotated[str, AfterValidator(_digest)] | None = Field(
        default=None, description="The SHA-256 of the key, as `printf %s KEY | sha256sum` prints."
    )
    plain: Annotated[HeaderText, AfterValidator(_plain)] | None = Field(
        default=None,
        repr=False,
        description=f"The key itself, at least {_SHORTEST} characters; better is its SHA-256.",
    )
    facts: dict[Annotated[str, AfterValidator(_fact)], Fact] = Field(
        default={},
        description="Facts about who has the key; each is in the metadata as `api_key.FACT`.",
    )


def _short(value: Any) -> Any:
    return {"sha256": value} if isinstance(value, str) else value


_Keys = dict[
    Annotated[str, AfterValidator(_name)],
    Annotated[Key, BeforeValidator(_short, json_schema_input_type=str | Key)],
]
_Table = dict[bytes, dict[str, Any]]
"""What is known by the digest of a key: its metadata."""


def parse_keys(content: bytes) -> _Table:
    """
    Read a file of keys: ``NAME:SHA256`` and facts (``plan=gold``) after it, one key a line.

    Raises ``ValueError``, which names the line.
    """
    table: _Table = {}
    for number, line in enumerate(content.decode().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, _, digest = words[0].rpartition(":")
        facts = [word.partition("=") for word in words[1:]]
        if not _NAME.fullmatch(name) or not _DIGEST.fullmatch(digest.lower()):
            raise ValueError(f"line {number}: NAME:SHA256 is expected")
        if not all(mark and _FACT.fullmatch(fact) for fact, mark, _ in facts):
            raise ValueError(f"line {number}: FACT=VALUE is expected after a key")
        held = {f"api_key.{fact}": value for fact, _, value in facts}
        if table.setdefault(bytes.fromhex(digest), {"api_key": name, **held})["api_key"] != name:
            raise ValueError(f"line {number}: another name has this key already")
    if not table:
        raise ValueError("it holds no key")
    return table


@implementer(IRequestFilter, IContextFilter, IFilterService)
class ApiKey:
    """
    Let in who brings one of the keys. Others get 401.

    The name of the key is in the metadata as ``api_key``, and in the header ``forward_name``.
    """

    class Options(api.Options):
        """Which keys there are, and where requests carry them."""

        exactly_one: ClassVar[tuple[str, ...]] = ("keys", "file")

        keys: _Keys | None = Field(
            default=None, min_length=1, description="The keys, each by the name of who has it."
        )
        file: str | None = Field(
            default=None,
            min_length=1,
            description="A file of keys, relative to the configuration's: `NAME:SHA256` a line, "
            "and facts such as `plan=gold` behind it. It is read again when it changes.",
        )
        look_in: LookIn = Field(
            default=[Place(header="x-api-key")],
            description="Where the key is looked for, in this order: `{header: NAME}`, `{cookie: "
            "NAME}`, `{parameter: NAME}` of the query, or `bearer`.",
        )
        forward: bool = Field(
            default=False, description="Send the key on, instead of taking it out of the request."
        )
        forward_name: HeaderName | None = Field(
            default=None,
            description="A header that tells the upstream the key's name; a client's own is "
            "removed.",
        )
        realm: HeaderText = Field(
            default="api", description="What the `www-authenticate` of a 401 calls this place."
        )
        wrong_status: Literal[401, 403] = Field(
            default=401, description="The status for a key that is not known."
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield a header that cannot be set."""
            yield from super().faults(given)
            yield from no_framing([given.get("forward_name", "")], "forward_name")

    def __init__(self, options: Options) -> None:
        self._options = options
        self._places = Places(options.look_in)
        self._forward = options.forward
        self._name = None if options.forward_name is None else options.forward_name.encode()
        self._own = OwnHeaders([options.forward_name] if options.forward_name else ())
        self._table: _Table = {}
        for name, key in (options.keys or {}).items():
            if key.plain is not None:
                digest = sha256(key.plain.encode()).digest()
            else:
                digest = bytes.fromhex(key.sha256 or "")
            if digest in self._table:
                raise Unfit(f"'{name}' has the key of '{self._table[digest]['api_key']}'")
            facts = {f"api_key.{fact}": value for fact, value in key.facts.items()}
            self._table[digest] = {"api_key": name, **facts}
        self._file: WatchedFile[_Table] | None = None
        scheme = "Bearer" if self._places.bearer else "ApiKey"
        realm = options.realm.replace("\\", "\\\\").replace('"', '\\"')
        self._ask = f'{scheme} realm="{realm}"'.encode()
        self._wrong_status = options.wrong_status

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        self._allowed = context.counter("allowed", "Requests with a good key")
        self._missing = context.counter("missing", "Requests without a key")
        self._wrong = context.counter("wrong", "Requests with a key that is not known")
        self._failures = context.counter("file_failures", "Times that a changed file was no good")
        self._log = context.log
        if self._options.file is not None:
            self._file = WatchedFile(
                context.path(self._options.file),
                parse_keys,
                context.now,
                self._changed,
                self._failed,
            )

    def start(self) -> None:
        """Part of ``IFilterService``: read the file. Raises ``ValueError``."""
        if self._file is not None:
            self._table = self._file.load()

    def stop(self) -> None:
        """Part of ``IFilterService``: nothing is open."""

    def _changed(self, table: _Table) -> None:
        self._table = table
        self._log(f"the file of keys was read again: {len(table)} keys")

    def _failed(self, reason: str) -> None:
        self._failures.inc()
        self._log(f"the file of keys is no good, the keys before it stay: {reason}")

    def request(self, exchange: Any) -> Response | None:
        """Part of ``IRequestFilter``."""
        if self._file is not None:
            self._file.look()
        self._places.conceal(exchange)
        request = exchange.request
        try:
            found = self._places.find(request)
        except Ambiguous:
            self._wrong.inc()
            return self._refusal(401, b"more than one API key", b"api_key_ambiguous")
        if found is None:
            self._missing.inc()
            return self._refusal(401, b"an API key is needed", b"api_key_missing")
        place, key = found
        known = None if len(key) > _LONGEST else self._table.get(sha256(key).digest())
        if known is None:
            self._wrong.inc()
            return self._refusal(self._wrong_status, b"this API key is not known", b"api_key_wrong")
        self._allowed.inc()
        exchange.metadata.update(known)
        exchange.notes[VERIFIED] = True
        self._places.strip(request, place if self._forward else -1)
        if self._name is not None:
            headers = request.headers
            self._own.remove_from(headers)
            headers.add(self._name, known["api_key"].encode())
        return None

    def _refusal(self, status: int, body: bytes, details: bytes) -> Response:
        headers = [(b"www-authenticate", self._ask)] if status == 401 else []
        return Response(status, body, headers, details=details)
