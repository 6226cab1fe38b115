"""TLS: what listeners show their clients, and what clusters ask of their endpoints.

Law: what a text alone can tell is judged here; files, and names of ciphers and curves, are judged
when the contexts are made, which `--check` does too.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from meshproxy.config.balance import Labels
from meshproxy.config.fields import PositiveDuration, Weights
from meshproxy.config.files import FilePath
from meshproxy.config.match import ValueMatch, one_of_several
from meshproxy.config.names import NamePattern, ServerName
from meshproxy.config.section import Section, written
from meshproxy.config.unfit import Unfit, quoted
from meshproxy.config.values import format_duration, seconds_of

__all__ = [
    "MOST_KEYS",
    "Certificate",
    "ClientCertificateHeader",
    "ClientCertificateHeaderItem",
    "ClusterTls",
    "ClusterTlsItem",
    "ListenerTls",
    "PassThrough",
    "TcpRoute",
    "Tickets",
    "TlsMatch",
]


def _protocol(value: str) -> str:
    if not value or len(value) > 255 or not value.isascii() or not value.isprintable():
        raise Unfit(f"a protocol such as `http/1.1` is expected, not {quoted(value)}")
    return value


Protocol = Annotated[str, AfterValidator(_protocol)]


def _pin(value: str) -> str:
    kind, slash, text = value.partition("/")
    if not slash and re.fullmatch(r"[0-9A-Fa-f]{64}", value):
        raise Unfit(
            "a pin is in base64, and this is a hash in hexadecimal",
            "sha256/" + base64.b64encode(bytes.fromhex(value)).decode(),
        )
    try:
        size = len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if kind != "sha256" or size != 32:
        raise Unfit(
            "`sha256/` and the base64 of a hash of 32 bytes is expected, not " + quoted(value),
            f"sha256/{text}" if size == 32 else None,
        )
    return value


Pin = Annotated[str, AfterValidator(_pin)]


_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


def _word(value: str) -> str:
    if not _WORD.fullmatch(value):
        several = [word for word in re.split(r"[\s:,]+", value[:256]) if word]
        good = len(several) > 1 and all(_WORD.fullmatch(word) for word in several)
        more = "; the others are items of the list too" if good else ""
        raise Unfit(f"one name in OpenSSL's spelling is expected, not {quoted(value)}{more}")
    return value


Word = Annotated[str, AfterValidator(_word)]


def _version(value: Any) -> Any:
    if isinstance(value, (int, float)):
        raise Unfit(f'text is expected, not {quoted(value)}; put it in quotes: "{value}"')
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"(?:SSL|TLS) ?v?[0-9.]+|1(?:\.[01])?|[23]", value, re.IGNORECASE):
        number = re.sub("[^0-9.]", "", value)
        if number not in ("1.2", "1.3"):
            raise Unfit(f"TLS 1.2 and 1.3 are spoken, and {quoted(value)} is not")
        raise Unfit(f"1.2 or 1.3 is expected, not {quoted(value)}", number)
    return value


Version = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(_version, json_schema_input_type=Literal["1.2", "1.3"]),
]

_LONGEST_TICKET = 7 * 86400.0
MOST_KEYS = 16
"""Old keys that are kept for the tickets that they encrypted."""

_FASTEST = 60.0


class Certificate(Section):
    """A certificate and its key: PEM files, or one PKCS#12 file."""

    exactly_one: ClassVar[tuple[str, ...]] = ("chain", "pkcs12")
    elsewhere: ClassVar[Mapping[str, str]] = {"cert": "'chain'", "certificate": "'chain'"}

    chain: FilePath | None = Field(
        default=None,
        description="A PEM file: the certificate, then those that lead to its CA.",
    )
    key: FilePath | None = Field(
        default=None, description="Its key as PEM; without it, it is in the chain's file."
    )
    pkcs12: FilePath | None = Field(
        default=None, description="A PKCS#12 file with the key and all certificates."
    )
    password_file: FilePath | None = Field(
        default=None, description="A file whose first line is the password of the key."
    )
    ocsp: FilePath | None = Field(
        default=None, description="An OCSP response (DER) that is stapled while it is good."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a key beside PKCS#12."""
        yield from super().faults(given)
        if "pkcs12" in given and "key" in given:
            yield Unfit("'pkcs12' holds the key too", at=("key",))


class Tickets(Section):
    """Session tickets, by which clients come back without a whole handshake."""

    rotate: PositiveDuration = Field(
        default=43200.0, description="How long one key encrypts new tickets; 1m at least."
    )
    lifetime: PositiveDuration = Field(
        default=86400.0,
        description="How long a client can come back with a ticket; at most 7d, and 16 times "
        "`rotate`.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield tickets that would have to outlive what TLS, or the number of keys, allows."""
        yield from super().faults(given)
        rotate = seconds_of(given.get("rotate"), 43200.0)
        lifetime = seconds_of(given.get("lifetime"), 86400.0)
        # Where only the other is written, the fault is there.
        at = ("lifetime",) if "lifetime" in given else ("rotate",)
        if rotate < _FASTEST:
            yield Unfit(
                "new keys take new contexts for all certificates; 1m is the least", at=("rotate",)
            )
        elif lifetime > _LONGEST_TICKET:
            yield Unfit("a ticket lives for 7d at most (RFC 8446 section 4.6.1)", at=at)
        elif lifetime > rotate * MOST_KEYS:
            yield Unfit(
                f"{MOST_KEYS} old keys are kept, and with a new one every "
                f"{format_duration(rotate)} tickets live for "
                f"{format_duration(rotate * MOST_KEYS)} at most, not {format_duration(lifetime)}",
                at=at,
            )


class _OrFalse:
    """A section, or false in its place; what is wrong inside is said as of the section alone."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        section = handler.generate_schema(Tickets)

        def given(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if value is False:
                return value
            if value is not True and not isinstance(value, (Mapping, Tickets)):
                raise Unfit(f"false or a mapping (key: value) is expected, not {quoted(value)}")
            return inner({} if value is True else value)

        def shown(value: Any, inner: core_schema.SerializerFunctionWrapHandler) -> Any:
            return value if value is False else inner(value)

        return core_schema.no_info_wrap_validator_function(
            given,
            section,
            serialization=core_schema.wrap_serializer_function_ser_schema(shown, schema=section),
            json_schema_input_schema=core_schema.union_schema([core_schema.bool_schema(), section]),
        )


TicketsItem = Annotated[Tickets | Literal[False], _OrFalse()]


class TlsMatch(Section):
    """What a ClientHello says; all that is written must hold."""

    server_names: list[NamePattern] = Field(
        default=[],
        description="The name asked for (SNI), one of these: `a.example`, `*.example` for any name "
        "below it, `*` for any name at all.",
    )
    alpn: list[Protocol] = Field(
        default=[], description="One of these protocols is offered (ALPN)."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a match of nothing."""
        yield from super().faults(given)
        if not given.get("server_names") and not given.get("alpn"):
            yield Unfit("'server_names' or 'alpn' is needed")


class PassThrough(Section):
    """Connections that go to a cluster as they are, never decrypted."""

    references: ClassVar[frozenset[str]] = frozenset({"to"})

    match: TlsMatch = Field(description="Which connections.")
    to: Weights = Field(
        description="The cluster that they go to, or several, each with its weight."
    )


class _Settings(Section):
    """What both sides of TLS can be told."""

    min_version: Version = Field(default="1.2", description="The lowest version of TLS.")
    max_version: Version = Field(default="1.3", description="The highest version of TLS.")
    ciphers: list[Word] = Field(
        default=[],
        description="Cipher suites in OpenSSL's spelling, best first; those that begin with `TLS_` "
        "are TLS 1.3's. Without it, those with forward secrecy and authenticated encryption.",
    )
    curves: list[Word] = Field(
        default=[], description="Groups for the key exchange, best first, such as `X25519`."
    )
    key_log: FilePath | None = Field(
        default=None,
        description="Write the secrets of every connection there, for Wireshark. Whoever reads "
        "the file can read everything.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield versions that leave none."""
        yield from super().faults(given)
        least, most = given.get("min_version", "1.2"), given.get("max_version", "1.3")
        if least == "1.3" and most == "1.2":
            at = "min_version" if "min_version" in given else "max_version"
            yield Unfit("'min_version' is above 'max_version'", at=(at,))
            return
        ciphers = given.get("ciphers")
        for index, cipher in enumerate(ciphers if isinstance(ciphers, list) else ()):
            if not isinstance(cipher, str):
                continue
            if cipher.startswith("TLS_") and most == "1.2":
                yield Unfit(
                    "this is a cipher suite of TLS 1.3, which 'max_version' rules out",
                    at=("ciphers", index),
                )
            elif least == "1.3" and not cipher.startswith("TLS_"):
                yield Unfit(
                    "this is a cipher suite of TLS 1.2, which 'min_version' rules out",
                    at=("ciphers", index),
                )


class ListenerTls(_Settings):
    """TLS is ended here: certificates for clients, and what is asked of theirs."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "certificate": "an item of 'certificates'",
        "pkcs12": "an item of 'certificates'",
        "session_tickets": "'tickets'",
    }

    certificates: list[Certificate] = Field(
        min_length=1,
        description="Certificates, chosen by the name that a client asks for (SNI) from the names "
        "inside them; the first is for everybody else.",
    )
    unknown_names: Literal["default", "refuse"] = Field(
        default="default",
        description="What a client gets that asks for a name of no certificate: the first one, or "
        "the alert unrecognized_name.",
    )
    alpn: list[Protocol] | None = Field(
        default=None,
        description="Protocols to agree on (ALPN), best first. `http/1.1` without it where http "
        "is spoken, none otherwise.",
    )
    client_ca: FilePath | None = Field(
        default=None, description="A PEM file of CAs whose certificates clients may present."
    )
    require_client_certificate: bool | None = Field(
        default=None,
        description="Refuse clients without one. true where `client_ca` is written.",
    )
    client_names: list[ValueMatch] = Field(
        default=[],
        description="A client's certificate must have one of these among its alternative names: "
        "a DNS name, URI, email or IP address.",
    )
    client_crl: FilePath | None = Field(
        default=None, description="A CRL (PEM or DER) of clients that are not welcome any more."
    )
    client_depth: int = Field(
        default=4, ge=0, le=16, description="Most certificates between a client's and a CA's."
    )
    tickets: TicketsItem = Field(
        default=Tickets(), description="Session tickets; false: every handshake is a whole one."
    )
    handshake_timeout: PositiveDuration = Field(
        default=10.0, description="How long a client may take to the end of its handshake."
    )
    max_handshakes: int = Field(
        default=4096,
        ge=1,
        le=1_000_000,
        description="Most handshakes under way; one more costs the oldest of them.",
    )
    on_demand: bool = Field(
        default=False,
        description="Begin without TLS; a filter starts it (`connection.start_tls()`).",
    )
    pass_through: list[PassThrough] = Field(
        default=[],
        description="Connections that are not for this listener, by what their ClientHello says; "
        "the first that matches counts.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what does nothing, and what contradicts itself."""
        yield from super().faults(given)
        if "client_ca" not in given:
            for key in ("client_names", "client_crl", "client_depth"):
                if key in given:
                    yield Unfit(f"'{key}' does nothing without 'client_ca'", at=(key,))
            if "require_client_certificate" in given:
                yield Unfit(
                    "without 'client_ca' clients are asked for no certificate, since none could "
                    "be verified",
                    at=("require_client_certificate",),
                )
        names = given.get("client_names")
        for index, name in enumerate(names if isinstance(names, list) else ()):
            yield from one_of_several(name, ("client_names", index))
        if given.get("on_demand") is True and given.get("pass_through"):
            yield Unfit(
                "with 'on_demand' no ClientHello is read before a filter wants it",
                at=("pass_through",),
            )


class ClusterTls(_Settings):
    """TLS is begun here: whom the endpoints must prove to be."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "insecure": "'verify: false'",
        "server_names": "'server_name' to ask for one, 'names' to accept others,",
        "sni": "'server_name'",
    }

    server_name: ServerName | None = Field(
        default=None,
        description="The name asked for (SNI) and verified, for every endpoint. Without it, what "
        "each endpoint was written with.",
    )
    verify: bool = Field(
        default=True,
        description="Verify the endpoints' certificates. false trusts whoever answers.",
    )
    ca: FilePath | None = Field(
        default=None, description="A PEM file of CAs to trust in place of the system's."
    )
    names: list[ServerName] = Field(
        default=[],
        description="What the certificate may be for instead of the name that is asked for.",
    )
    pins: list[Pin] = Field(
        default=[],
        description="`sha256/BASE64` of public keys (SPKI), one of which must be in the chain; "
        "with `verify: false`, it must be the endpoint's own.",
    )
    certificate: Certificate | None = Field(
        default=None, description="The certificate that is presented where one is asked for."
    )
    crl: FilePath | None = Field(
        default=None,
        description="A CRL (PEM or DER) that endpoints' certificates are looked up in.",
    )
    depth: int = Field(
        default=4, ge=0, le=16, description="Most certificates between an endpoint's and a CA's."
    )
    alpn: list[Protocol] = Field(default=[], description="Protocols to offer (ALPN), best first.")
    resume: bool = Field(
        default=True, description="Resume sessions, so that most handshakes are short."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what does nothing without verification, and what no client does."""
        yield from super().faults(given)
        if given.get("verify") is False:
            for key in ("ca", "names", "crl", "depth"):
                if key in given:
                    yield Unfit(f"'{key}' does nothing beside 'verify: false'", at=(key,))
        if "ocsp" in written(given.get("certificate")):
            yield Unfit(
                "only a server staples an OCSP response, and this is a client's certificate",
                at=("certificate", "ocsp"),
            )


def _cluster_tls(value: Any) -> Any:
    if value is True:
        return {}
    if value is False:
        raise Unfit(
            "without TLS leave 'tls' out; with TLS that is not verified, write {verify: false}"
        )
    return value


ClusterTlsItem = Annotated[
    ClusterTls,
    BeforeValidator(_cluster_tls, json_schema_input_type=Literal[True] | ClusterTls),
]


class ClientCertificateHeader(Section):
    """What becomes of `x-forwarded-client-cert`."""

    shorthand: ClassVar[str] = "mode"

    mode: Literal["sanitize", "forward", "append", "set"] = Field(
        default="sanitize",
        description="sanitize: it is removed. forward: it goes on as it came, of clients with a "
        "verified certificate. append: the client's own is added behind. set: the client's own "
        "takes its place.",
    )
    details: list[Literal["uri", "dns", "subject", "cert", "chain"]] = Field(
        default=["subject", "uri", "dns"],
        description="What append and set tell of the client's certificate beside its hash.",
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield details of what is not told."""
        yield from super().faults(given)
        mode = given.get("mode", "sanitize")
        if "details" in given and mode in ("sanitize", "forward"):
            yield Unfit(f"'details' does nothing beside 'mode: {mode}'", at=("details",))


def _mode(value: Any) -> Any:
    return {"mode": value} if isinstance(value, str) else value


ClientCertificateHeaderItem = Annotated[
    ClientCertificateHeader,
    BeforeValidator(_mode, json_schema_input_type=str | ClientCertificateHeader),
]


class TcpRoute(Section):
    """Where some of the connections go, by what their ClientHello says."""

    references: ClassVar[frozenset[str]] = frozenset({"to"})

    match: TlsMatch | None = Field(
        default=None, description="Which connections; without it all that are left."
    )
    to: Weights = Field(description="The cluster, or several, each with its weight.")
    subset: Labels = Field(
        default={}, description="Use only endpoints with these labels, besides the cluster's."
    )
