"""
Role-based access control: ordered rules that allow or deny.

The law it keeps: the first rule that matches decides, and where none does the default. A rule sees
a path in its normal form alone; a path that has none is answered 400 as soon as a rule has to look
at it, so that no spelling of a path walks past a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator
from zope.interface import implementer

from meshproxy import api
from meshproxy.api import (
    Field,
    HeaderName,
    Method,
    Response,
    StringMatch,
    Unfit,
    ValueMatch,
    certificate_texts,
    string_test,
)
from meshproxy.filters._networks import Network, Networks
from meshproxy.filters._paths import Encoded, normal_path, odd
from meshproxy.filters._wanted import header_test, no_host, text_of
from meshproxy.interfaces import IContextFilter, IFilterContext, IRequestFilter

__all__ = ["Access"]

_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]+\]")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _host(value: str) -> str:
    if not _HOST.fullmatch(value):
        raise Unfit(f"a host such as a.example or *.example, without a port: not '{value[:64]}'")
    return value.lower()


def _fingerprint(value: str) -> str:
    digits = value.replace(":", "").lower()
    if not _FINGERPRINT.fullmatch(digits):
        raise Unfit("a fingerprint is the 64 hexadecimal digits of a certificate's SHA-256")
    return digits


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise Unfit("a rule's name is up to 64 letters, digits, '_', '.' and '-'")
    return value


class CertificateMatch(api.Options):
    """What the client's certificate must be; all that is written must hold. None without TLS."""

    subject: ValueMatch | None = Field(
        default=None, description="The subject as RFC 4514 writes it: `CN=a,O=b`."
    )
    san: ValueMatch | None = Field(
        default=None,
        description="One of its subject alternative names: a DNS name, URI, email or address.",
    )
    fingerprint: list[Annotated[str, AfterValidator(_fingerprint)]] | None = Field(
        default=None,
        min_length=1,
        description="The certificate's SHA-256 is one of these; hexadecimal, with or without `:`.",
    )
    present: Literal[True] | None = Field(
        default=None, description="There is one, whatever it says."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a match that asks nothing."""
        yield from super().faults(given)
        if not given:
            yield Unfit("say what the certificate must be, or 'present: true'")


class Conditions(api.Options):
    """Conditions, all of which must hold."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        "not": "'unless'",
        "source_ip": "'addresses'",
        "principals": "'addresses', 'headers' and 'certificate'",
    }

    addresses: list[Network] | None = Field(
        default=None,
        min_length=1,
        description="The client is in one of these addresses or networks; `unix` is a UNIX socket.",
    )
    headers: dict[HeaderName, ValueMatch] | None = Field(
        default=None,
        min_length=1,
        description="What headers must be. Where a header comes several times, one value is enough "
        "to deny, and all must match to allow.",
    )
    paths: list[ValueMatch] | None = Field(
        default=None,
        min_length=1,
        description="The path, in its normal form and without the query, is one of these.",
    )
    methods: list[Method] | None = Field(
        default=None, min_length=1, description="The method is one of these."
    )
    hosts: list[Annotated[str, AfterValidator(_host)]] | None = Field(
        default=None,
        min_length=1,
        description="The host, without a port, is one of these; `*.example` is all below example.",
    )
    metadata: dict[str, ValueMatch] | None = Field(
        default=None, min_length=1, description="What facts that other filters left must be."
    )
    certificate: CertificateMatch | None = Field(
        default=None, description="What the client's certificate must be."
    )

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield conditions that could never hold."""
        yield from super().faults(given)
        yield from no_host(given, "'hosts'")


class Except(Conditions):
    """Conditions of which at least one is written."""

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield a section without a condition, which would hold always."""
        yield from super().faults(given)
        if not given:
            yield Unfit("without a condition it always holds, and the rule never")


class Rule(Conditions):
    """Who may do what: it matches when all its conditions hold; without any, always."""

    name: Annotated[str, AfterValidator(_name)] = Field(
        description="What the access log and the metrics call it."
    )
    action: Literal["allow", "deny", "log"] = Field(
        description="`allow` or `deny` decide; `log` counts, leaves `access.log` and goes on."
    )
    unless: Except | None = Field(
        default=None, description="The rule does not match where all of these conditions hold."
    )


class _Subject:
    """An exchange that is being judged; its path is worked out once, when it is asked for."""

    __slots__ = ("_path", "exchange", "request")

    def __init__(self, exchange: Any) -> None:
        self.exchange = exchange
        self.request = exchange.request
        self._path: bytes | None = None

    def path(self, normal: Callable[[bytes], bytes | None]) -> bytes:
        """The path in its normal form. Raises :class:`_NoNormalForm`."""
        path: bytes | None = self._path
        if path is None:
            path = self.request.path
            if odd(path) is not None:
                path = normal(path)
                if path is None:
                    raise _NoNormalForm
            self._path = path
        return path


class _NoNormalForm(Exception):
    """The path means different things to different servers."""


_Test = Callable[[_Subject], bool]


class _Compiled:
    """A rule that is ready: whether it matches, and what follows."""

    __slots__ = ("action", "details", "matched", "name", "tests", "unless")

    def __init__(self, rule: Rule, normal: Callable[[bytes], bytes | None]) -> None:
        self.name = rule.name
        self.action = rule.action
        allows = rule.action == "allow"
        self.tests = _tests(rule, normal, every=allows)
        self.unless = None if rule.unless is None else _tests(rule.unless, normal, every=not allows)
        self.details = b"rbac_access_denied_matched_policy[%b]" % rule.name.encode()
        self.matched: Any = None

    def matches(self, subject: _Subject) -> bool:
        for test in self.tests:
            if not test(subject):
                return False
        if self.unless is None:
            return True
        return any(not test(subject) for test in self.unless)


@implementer(IRequestFilter, IContextFilter)
class Access:
    """
    Allow or deny by who asks for what. Denied: 403 ``RBAC: access denied``.

    Conditions cost in the order in which they are written in the documentation; an address is
    looked up once and remembered.
    """

    class Options(api.Options):
        """Ordered rules; the first that matches decides."""

        rules: list[Rule] = Field(
            default=[], description="The rules, in order; the first that matches decides."
        )
        default: Literal["allow", "deny"] = Field(
            default="deny", description="What becomes of requests that no rule matches."
        )
        shadow: bool = Field(
            default=False,
            description="Deny nobody: only count, and leave `access.shadow` (`allowed` or "
            "`denied`) and `access.shadow_rule` in the metadata.",
        )
        merge_slashes: bool = Field(
            default=True, description="Take `//` in a path for `/` when rules look at it."
        )
        encoded_slash: Encoded = Field(
            default="refuse",
            description="A path with `%2f`, `%5c` or a backslash: `refuse` it with 400, `keep` it "
            "as it is, or `decode` it to `/` when rules look at it.",
        )
        strip_parameters: bool = Field(
            default=False,
            description="Leave out what follows a `;` in a segment when rules look at a path; for "
            "servers that do, such as Tomcat.",
        )

        @classmethod
        def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
            """Yield what decides nothing, and rules of one name."""
            yield from super().faults(given)
            rules = given.get("rules")
            if not rules and "default" not in given:
                yield Unfit("write 'rules', or at least the 'default'")
            seen = set()
            for index, rule in enumerate(rules if isinstance(rules, list) else ()):
                name = rule.get("name") if isinstance(rule, Mapping) else getattr(rule, "name", 0)
                if isinstance(name, str):
                    if name in seen:
                        yield Unfit(
                            f"there is a rule '{name[:64]}' already", at=("rules", index, "name")
                        )
                    seen.add(name)

    def __init__(self, options: Options) -> None:
        def normal(path: bytes) -> bytes | None:
            return normal_path(
                path,
                merge_slashes=options.merge_slashes,
                encoded=options.encoded_slash,
                strip_parameters=options.strip_parameters,
            )

        for rule in options.rules:
            for conditions in (rule, rule.unless):
                if conditions is not None and conditions.paths:
                    _check_paths(rule.name, conditions.paths, normal)
        self._rules = tuple(_Compiled(rule, normal) for rule in options.rules)
        self._default = options.default
        self._shadow = options.shadow

    def attach(self, context: IFilterContext) -> None:
        """Part of ``IContextFilter``."""
        counter = context.counter
        self._allowed = counter("allowed", "Requests allowed")
        self._denied = counter("denied", "Requests denied")
        self._shadow_allowed = counter("shadow_allowed", "Requests that would be allowed")
        self._shadow_denied = counter("shadow_denied", "Requests that would be denied")
        self._refused = counter("path_refused", "Requests whose path has no normal form")
        for rule in self._rules:
            rule.matched = counter("matched", "Requests that a rule matched", rule=rule.name)

    def request(self, exchange: Any) -> Response | None:
        """Part of ``IRequestFilter``."""
        subject = _Subject(exchange)
        try:
            for rule in self._rules:
                if rule.matches(subject):
                    rule.matched.inc()
                    if rule.action == "log":
                        metadata = exchange.metadata
                        earlier = metadata.get("access.log")
                        metadata["access.log"] = (
                            rule.name if earlier is None else f"{earlier},{rule.name}"
                        )
                        continue
                    return self._decide(exchange, rule.action, rule.name, rule.details)
        except _NoNormalForm:
            self._refused.inc()
            if self._shadow:
                return self._decide(exchange, "deny", "path", b"")
            return Response(
                400, b"RBAC: the path is ambiguous", details=b"rbac_path_has_no_normal_form"
            )
        return self._decide(
            exchange, self._default, "none", b"rbac_access_denied_matched_policy[none]"
        )

    def _decide(self, exchange: Any, action: str, name: str, details: bytes) -> Response | None:
        allow = action == "allow"
        if self._shadow:
            (self._shadow_allowed if allow else self._shadow_denied).inc()
            exchange.metadata["access.shadow"] = "allowed" if allow else "denied"
            exchange.metadata["access.shadow_rule"] = name
            return None
        if allow:
            self._allowed.inc()
            return None
        self._denied.inc()
        return Response(403, b"RBAC: access denied", details=details)


def _check_paths(
    name: str, paths: list[StringMatch], normal: Callable[[bytes], bytes | None]
) -> None:
    """Raise ``Unfit`` for a path that no normal form is equal to or begins with."""
    for wanted in paths:
        for text in (wanted.exact, wanted.prefix):
            if text is None or text == "*":
                continue
            form = normal(text.encode())
            if form is None or not text.startswith("/") or not text.isascii():
                raise Unfit(f"rule '{name}': no path is ever seen as '{text[:64]}'")
            if form.decode() != text:
                raise Unfit(
                    f"rule '{name}': a path is compared in its normal form, which '{text[:64]}' "
                    f"is not: write '{form.decode()[:64]}'"
                )


def _tests(
    conditions: Conditions, normal: Callable[[bytes], bytes | None], *, every: bool
) -> tuple[_Test, ...]:
    """A test for each condition, the cheap ones first."""
    tests: list[_Test] = []
    if conditions.methods:
        methods = frozenset(method.encode() for method in conditions.methods)
        tests.append(lambda subject: subject.request.method in methods)
    if conditions.addresses:
        contains = Networks(conditions.addresses).contains
        tests.append(lambda subject: contains(subject.exchange.client_ip))
    if conditions.hosts:
        tests.append(_host_test(conditions.hosts))
    if conditions.paths:
        tests.append(_path_test(conditions.paths, normal))
    for name, wanted in (conditions.headers or {}).items():
        tests.append(_header_test(name, wanted, every))
    for name, wanted in (conditions.metadata or {}).items():
        tests.append(_metadata_test(name, wanted))
    if conditions.certificate is not None:
        tests.append(_certificate_test(conditions.certificate))
    return tuple(tests)


def _host_test(hosts: list[str]) -> _Test:
    exact = frozenset(host.encode() for host in hosts if not host.startswith("*"))
    suffixes = tuple(host[1:].encode() for host in hosts if host.startswith("*"))

    def test(subject: _Subject) -> bool:
        host = subject.request.authority.lower()
        name, colon, port = host.rpartition(b":")
        if colon and (not port or port.isdigit()):
            host = name
        host = host.rstrip(b".")
        return host in exact or host.endswith(suffixes)

    return test


def _path_test(paths: list[StringMatch], normal: Callable[[bytes], bytes | None]) -> _Test:
    tests = [string_test(wanted) for wanted in paths]
    if len(tests) == 1:
        only = tests[0]
        return lambda subject: only(subject.path(normal))

    def test(subject: _Subject) -> bool:
        path = subject.path(normal)
        return any(one(path) for one in tests)

    return test


def _header_test(name: str, wanted: StringMatch, every: bool) -> _Test:
    test = header_test(name, wanted, every=every)
    return lambda subject: test(subject.request.headers)


def _metadata_test(name: str, wanted: StringMatch) -> _Test:
    test = string_test(wanted)
    return lambda subject: test(text_of(subject.exchange.metadata.get(name)))


def _certificate_test(match: CertificateMatch) -> _Test:
    subject_test = None if match.subject is None else string_test(match.subject)
    san_test = None if match.san is None else string_test(match.san)
    fingerprints = None
    if match.fingerprint is not None:
        fingerprints = frozenset(digits.encode() for digits in match.fingerprint)

    def test(subject: _Subject) -> bool:
        tls = subject.exchange.tls
        certificate = None if tls is None else tls.certificate
        if certificate is None:
            return False
        texts = certificate_texts(certificate)
        return (
            (subject_test is None or subject_test(texts.subject))
            and (san_test is None or any(san_test(one) for one in texts.names))
            and (fingerprints is None or texts.fingerprint in fingerprints)
        )

    return test
