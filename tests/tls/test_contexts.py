"""What a listener shows its clients: by name, under conditions, and after changes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.python import log

from meshproxy.config.tls import Tickets
from meshproxy.observe.registry import Registry
from meshproxy.tls.contexts import TURNED_AT_ONCE, ServerContexts
from meshproxy.tls.hello import Hello
from meshproxy.tls.material import TlsFileError
from meshproxy.tls.settings import BadSetting
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import Exchange, certificate, client, hello, listener_tls

NAMES = {"a": ("a.example", "*.a.example"), "b": ("b.example",)}


@pytest.fixture(scope="module")
def authority() -> Authority:
    """One for all tests."""
    return Authority()


@pytest.fixture(scope="module")
def issued(authority: Authority) -> dict[str, Issued]:
    """ECDSA and RSA for a.example, ECDSA for b.example."""
    below = authority.intermediate()
    return {
        "a": below.issue(*NAMES["a"]),
        "a-rsa": authority.issue(*NAMES["a"], kind="rsa"),
        "b": authority.issue(*NAMES["b"]),
    }


class Wall:
    """The time, as told."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall() -> Wall:
    """A clock that stands still."""
    return Wall()


@pytest.fixture
def logged() -> Any:
    """What is logged."""
    lines: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        lines.append(" ".join(map(str, event.get("message") or ())))

    log.addObserver(observe)
    yield lines
    log.removeObserver(observe)


Make = Callable[..., ServerContexts]


@pytest.fixture
def make(tmp_path: Path, issued: dict[str, Issued], wall: Wall) -> Make:
    """Contexts of the certificates named, whose files are in ``tmp_path``."""
    for stem, one in issued.items():
        one.write(tmp_path, stem)

    def made(*stems: str, registry: Registry | None = None, **given: Any) -> ServerContexts:
        entries = [certificate(chain=f"{stem}.pem", key=f"{stem}.key") for stem in stems]
        config = listener_tls(**{"certificates": entries, **given})
        return ServerContexts(config, "web", str(tmp_path), wall, registry)

    return made


def asked(name: str, ticket: bytes = b"") -> Hello:
    """A hello for a name."""
    return Hello(name.encode(), (), (0x0304,), ticket, False, 100)


def picked(contexts: ServerContexts, name: str) -> SSL.Context:
    """The context for a name, which there is."""
    context = contexts.pick(asked(name))
    assert context is not None
    return context


# Names


def test_names(make: Make, issued: dict[str, Issued]) -> None:
    """Each name gets its certificate with its chain; others, and no name, get the first."""
    contexts = make("a", "b")
    for name, stem in (
        ("a.example", "a"),
        ("x.a.example", "a"),
        ("b.example", "b"),
        ("other.example", "a"),
        ("", "a"),
    ):
        done = Exchange(picked(contexts, name), client(), name)
        assert done.good
        assert done.shown == [issued[stem].cert, *issued[stem].above], name


def test_unknown_names_are_refused_where_told(make: Make) -> None:
    """Refusing leaves those that ask for no name at all with the default."""
    contexts = make("a", unknown_names="refuse")
    assert contexts.pick(asked("other.example")) is None
    assert contexts.pick(asked("x.y.a.example")) is None
    assert contexts.pick(asked("x.a.example")) is not None
    assert contexts.pick(asked("")) is not None


def test_two_kinds_of_keys_side_by_side(make: Make, issued: dict[str, Issued]) -> None:
    """RSA and ECDSA for the same name: the client's abilities decide, ECDSA is first."""
    contexts = make("a-rsa", "a")
    context = picked(contexts, "a.example")
    assert picked(contexts, "") is context
    assert Exchange(context, client()).leaf == issued["a"].cert
    for version in ("1.2", "1.3"):
        able = client(version=version, sigalgs="RSA-PSS+SHA256")
        done = Exchange(context, able)
        assert done.good
        # Each has its own chain: that of the other has one certificate more.
        assert done.shown == [issued["a-rsa"].cert]
    able = client(version="1.2", sigalgs="ECDSA+SHA256")
    assert Exchange(context, able).shown == [issued["a"].cert, *issued["a"].above]


def test_what_a_wildcard_adds(
    make: Make, tmp_path: Path, authority: Authority, issued: dict[str, Issued]
) -> None:
    """A name whose own certificate is ECDSA is shown to others by the RSA wildcard."""
    own = authority.issue("x.a.example")
    own.write(tmp_path, "own")
    context = picked(make("a-rsa", "own"), "x.a.example")
    assert Exchange(context, client()).leaf == own.cert
    able = client(sigalgs="RSA-PSS+SHA256")
    assert Exchange(context, able).leaf == issued["a-rsa"].cert


def test_a_certificate_that_is_never_shown(
    make: Make, tmp_path: Path, authority: Authority, logged: list[str]
) -> None:
    """Who wrote one behind others that bear all its names is told so, once."""
    authority.issue("b.example", "a.example").write(tmp_path, "twin")
    contexts = make("a", "b", "twin")
    assert contexts.described()[2]["ticket_generation"] == 0
    contexts.reload()
    (told,) = (line for line in logged if "never shown" in line)
    assert told.startswith(f"tls listener=web certificate={tmp_path / 'twin.pem'} is never shown: ")


def test_bad_settings_are_refused(make: Make) -> None:
    """What is wrong is told by its key."""
    with pytest.raises(BadSetting) as bad:
        make("a", ciphers=["NOPE"])
    assert bad.value.key == "ciphers"
    with pytest.raises(TlsFileError) as missing:
        make("none")
    assert missing.value.key == "chain"
    assert "none.pem cannot be read: No such file or directory" in str(missing.value)


# What is inside


def test_alpn(make: Make) -> None:
    """The server's order decides; no protocol in common is an alert, no offer is none."""
    context = picked(make("a", alpn=["x/2", "http/1.1"]), "")
    for offered, chosen in ((("http/1.1", "x/2"), b"x/2"), (("http/1.1",), b"http/1.1"), ((), b"")):
        done = Exchange(context, client(alpn=offered))
        assert (done.good, done.client.get_alpn_proto_negotiated()) == (True, chosen)
    for version in ("1.2", "1.3"):
        done = Exchange(context, client(version=version, alpn=("h2",)))
        assert done.refused == "no application protocol"
        assert "no application protocol" in done.alert


def test_versions(make: Make) -> None:
    """A version that is not spoken is refused."""
    context = picked(make("a", min_version="1.3"), "")
    assert not Exchange(context, client(version="1.2")).good
    assert Exchange(context, client(version="1.3")).good
    assert not Exchange(picked(make("a"), ""), client(version="1.1")).good
    context = picked(make("a", max_version="1.2"), "")
    assert Exchange(context, client(version="1.2")).good
    assert not Exchange(context, client(version="1.3")).good


def test_the_lifetime_of_tickets(make: Make) -> None:
    """OpenSSL is told it: it refuses older ones, and tells clients how long to keep them."""
    contexts = make("a", tickets=Tickets.model_validate({"rotate": "1h", "lifetime": "2h"}))
    for context in (picked(contexts, ""), contexts.front):
        assert vars(SSL.Context)["get_timeout"](context) == 7200


def test_the_key_log(make: Make, tmp_path: Path) -> None:
    """Secrets of each connection are in the file."""
    context = picked(make("a", key_log="keys.log"), "")
    assert Exchange(context, client(version="1.3")).good
    assert b"CLIENT_TRAFFIC_SECRET_0 " in (tmp_path / "keys.log").read_bytes()


# Tickets


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_generations_of_tickets(make: Make, wall: Wall, version: str) -> None:
    """After new keys an old ticket is honoured until it ends, by the context that gave it."""
    contexts = make("a", "b")
    able = client(version=version)
    first = picked(contexts, "a.example")
    done = Exchange(first, able, "a.example")
    said = hello(able, "a.example", done.session)
    assert len(said.ticket) == 16
    assert contexts.pick(said) is first
    contexts.rotate()
    assert contexts.pick(asked("a.example")) is not first
    assert contexts.pick(said) is first
    again = Exchange(first, able, "a.example", done.session)
    assert (again.good, again.resumed) == (True, True)
    # Neither for another name, nor for a ticket that nobody gave.
    assert contexts.pick(hello(able, "b.example", done.session)) is picked(contexts, "b.example")
    assert contexts.pick(asked("a.example", b"x" * 16)) is picked(contexts, "a.example")
    wall.now += 86401
    contexts.tick()
    assert contexts.pick(said) is picked(contexts, "a.example")
    other = Exchange(picked(contexts, "a.example"), able, "a.example", done.session)
    assert (other.good, other.resumed) == (True, False)


def test_keys_are_renewed_when_due(make: Make, wall: Wall) -> None:
    """After the time that is set, and not before."""
    contexts = make("a", tickets=Tickets.model_validate({"rotate": "100s", "lifetime": "250s"}))
    first = picked(contexts, "")
    wall.now += 99
    contexts.tick()
    assert picked(contexts, "") is first
    seen = {id(first)}
    # A late look changes nothing about the next.
    wall.now += 51
    contexts.tick()
    seen.add(id(picked(contexts, "")))
    wall.now += 50
    contexts.tick()
    assert contexts.described()[0]["ticket_generation"] == 3
    for _ in range(10):
        wall.now += 100
        contexts.tick()
        assert len(contexts._default.known) <= 3
        seen.add(id(picked(contexts, "")))
    assert contexts.described()[0]["ticket_generation"] == 13


def test_many_are_renewed_a_few_at_a_time(
    make: Make, tmp_path: Path, authority: Authority, wall: Wall
) -> None:
    """However many contexts there are, one tick renews a bounded number."""
    stems = [f"n{number}" for number in range(TURNED_AT_ONCE + 2)]
    for stem in stems:
        authority.issue(f"{stem}.example").write(tmp_path, stem)
    contexts = make(*stems)
    before = {stem: picked(contexts, f"{stem}.example") for stem in stems}
    wall.now += 43200

    def renewed() -> int:
        return sum(picked(contexts, f"{stem}.example") is not before[stem] for stem in stems)

    contexts.tick()
    assert renewed() == TURNED_AT_ONCE
    contexts.tick()
    assert renewed() == len(stems)


def test_keys_ahead(make: Make, wall: Wall, logged: list[str]) -> None:
    """They are used up first, at their times; that others follow is told once."""
    contexts = make("a", "b")
    assert contexts.prepared == 0
    contexts.rotate()
    contexts.prepare(3)
    contexts.prepare(3)
    assert contexts.prepared == 3
    contexts.rotate()
    assert contexts.prepared == 2
    wall.now += 43200
    contexts.tick()
    assert contexts.prepared == 1
    # Who has slept takes what is due.
    wall.now += 43200
    contexts.prepare(1)
    assert contexts.prepared == 1
    assert contexts.described()[0]["ticket_generation"] == 5
    wall.now += 43200
    contexts.tick()
    assert (contexts.prepared, logged) == (0, [])
    for _ in range(3):
        wall.now += 43200
        contexts.tick()
    assert len(logged) == 1
    assert "tickets: no prepared key is left" in logged[0]


def test_keys_ahead_end_with_their_certificate(
    make: Make, tmp_path: Path, authority: Authority, wall: Wall, logged: list[str]
) -> None:
    """What a reload changes has keys of this process alone; they change with all others."""
    contexts = make("a", "b")
    contexts.prepare(2)
    wall.now += 43200
    contexts.tick()
    authority.issue("b.example").write(tmp_path, "b")
    assert contexts.reload()
    assert contexts.prepared == 0
    assert sum("tickets: no prepared key is left" in line for line in logged) == 1
    assert [one["ticket_generation"] for one in contexts.described()] == [2, 2]
    known = contexts._default.known
    wall.now += 43200
    contexts.tick()
    assert picked(contexts, "a.example") in known.values()
    assert [one["ticket_generation"] for one in contexts.described()] == [3, 3]
    assert sum("tickets: no prepared key is left" in line for line in logged) == 1


def test_without_tickets(make: Make, wall: Wall) -> None:
    """Nothing resumes."""
    contexts = make("a", tickets=False)
    contexts.prepare(2)
    assert contexts.prepared == 0
    for version in ("1.2", "1.3"):
        able = client(version=version)
        done = Exchange(picked(contexts, ""), able)
        assert not Exchange(picked(contexts, ""), able, "", done.session).resumed
    first = picked(contexts, "")
    wall.now += 1e6
    contexts.tick()
    contexts.rotate()
    assert picked(contexts, "") is first
    assert contexts.described()[0]["ticket_generation"] is None


# Clients


@pytest.fixture
def clients(tmp_path: Path, authority: Authority) -> dict[str, Any]:
    """The configuration that asks for clients of ``authority``."""
    return {"client_ca": authority.write(tmp_path, "clients").name}


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_client_certificates(
    make: Make, authority: Authority, clients: dict[str, Any], version: str
) -> None:
    """A good one comes in; an absent, expired or foreign one does not, and learns why."""
    context = picked(make("a", **clients), "")
    good = authority.issue(client=True, uris=["spiffe://mesh/a"])
    assert Exchange(context, client(version=version, issued=good)).good
    for bad, refused, alert in (
        (None, "peer did not return a certificate", ""),
        (authority.issue("c", client=True, days=-1), "certificate has expired", "expired"),
        (Authority("other").issue("c", client=True), "unable to get local issuer", "unknown ca"),
        (authority.issue("c"), "unsuitable certificate purpose", "unsupported certificate"),
    ):
        done = Exchange(context, client(version=version, issued=bad))
        assert refused in done.refused
        assert alert in done.alert


def test_optional_client_certificates(
    make: Make, authority: Authority, clients: dict[str, Any]
) -> None:
    """None is good, a bad one is not."""
    context = picked(make("a", **clients, require_client_certificate=False), "")
    assert Exchange(context, client()).good
    assert not Exchange(context, client(issued=Authority("x").issue("c", client=True))).good


def test_a_session_outlives_no_certificate(
    make: Make, authority: Authority, clients: dict[str, Any], wall: Wall
) -> None:
    """One that is resumed after its client's certificate ended is told of."""
    contexts = make("a", **clients)
    until = datetime.fromtimestamp(wall.now, UTC) + timedelta(hours=1)
    able = client(issued=authority.issue("c", client=True, not_after=until))
    done = Exchange(picked(contexts, ""), able)
    assert not contexts.outlived(done.server)
    again = Exchange(picked(contexts, ""), able, "", done.session)
    assert again.resumed
    assert not contexts.outlived(again.server)
    wall.now += 3601
    assert contexts.outlived(again.server)
    # Without resumption it is OpenSSL that looks.
    assert not contexts.outlived(done.server)


def test_a_session_outlives_no_list(
    make: Make, tmp_path: Path, authority: Authority, clients: dict[str, Any], wall: Wall
) -> None:
    """Whom a whole handshake would refuse for a list that is out of date is told of as well."""
    able = client(issued=authority.issue("c", client=True, days=90))
    other = Authority("other").crl(days=1)
    for lists, days in ((authority.crl(days=2), 2), (authority.crl(days=2) + other, 2)):
        wall.now = datetime.now(UTC).timestamp()
        (tmp_path / "crl.pem").write_bytes(lists)
        contexts = make("a", **clients, client_crl="crl.pem")
        done = Exchange(picked(contexts, ""), able)
        again = Exchange(picked(contexts, ""), able, "", done.session)
        assert again.resumed
        wall.now += (days - 0.5) * 86400
        assert not contexts.outlived(again.server)
        wall.now += 86400
        assert contexts.outlived(again.server)


def test_revoked_clients(
    make: Make, tmp_path: Path, authority: Authority, clients: dict[str, Any], logged: list[str]
) -> None:
    """A list that is renewed is in force with the next handshake, sessions or not."""
    good, bad = (authority.issue(name, client=True) for name in ("good", "bad"))
    (tmp_path / "crl.pem").write_bytes(authority.crl([bad]))
    contexts = make("a", **clients, client_crl="crl.pem")
    able = client(issued=good)
    done = Exchange(picked(contexts, ""), able)
    assert done.good
    refused = Exchange(picked(contexts, ""), client(issued=bad))
    assert refused.refused == "certificate revoked"
    assert "revoked" in refused.alert
    (tmp_path / "crl.pem").write_bytes(authority.crl([good, bad]))
    assert contexts.reload()
    said = hello(able, "", done.session)
    context = contexts.pick(said)
    assert context is not None
    again = Exchange(context, able, "", done.session)
    assert (again.resumed, again.refused) == (False, "certificate revoked")
    (tmp_path / "crl.pem").write_bytes(b"broken")
    assert not contexts.reload()
    assert picked(contexts, "") is context
    assert any("client_crl: " in line and "stays" in line for line in logged)


def test_a_list_that_goes_out_of_date(
    make: Make,
    tmp_path: Path,
    authority: Authority,
    clients: dict[str, Any],
    logged: list[str],
    wall: Wall,
) -> None:
    """It is told when it does, for from then on it turns everybody away."""
    (tmp_path / "crl.pem").write_bytes(authority.crl(days=1))
    contexts = make("a", **clients, client_crl="crl.pem")
    contexts.tick()
    assert logged == []
    wall.now += 86401
    contexts.tick()
    contexts.tick()
    assert len(logged) == 1
    assert "client_crl: the list of CN=test CA was to be renewed at " in logged[0]
    (tmp_path / "crl.pem").write_bytes(authority.crl(days=9))
    assert contexts.reload()
    wall.now += 9 * 86400
    contexts.tick()
    assert len([line for line in logged if "was to be renewed" in line]) == 2


# Reloading


def test_a_new_certificate(
    make: Make, tmp_path: Path, authority: Authority, issued: dict[str, Issued]
) -> None:
    """It is shown from the next handshake on; others keep their contexts and tickets."""
    registry = Registry()
    contexts = make("a", "b", registry=registry)
    other = picked(contexts, "b.example")
    assert not contexts.reload()
    assert picked(contexts, "b.example") is other
    fresh = authority.issue("a.example", "new.example")
    fresh.write(tmp_path, "a")
    old = picked(contexts, "a.example")
    assert contexts.reload()
    for name in ("a.example", "new.example", ""):
        assert Exchange(picked(contexts, name), client()).leaf == fresh.cert
    assert picked(contexts, "b.example") is other
    # Whoever is in a handshake with the old one ends it.
    assert Exchange(old, client()).leaf == issued["a"].cert
    labels = '{listener="web"}'
    assert _numbers(registry) == {f"reloads_total{labels}": 1, f"reload_failures_total{labels}": 0}


def test_a_chain_whose_key_has_not_come(
    make: Make,
    tmp_path: Path,
    authority: Authority,
    issued: dict[str, Issued],
    logged: list[str],
) -> None:
    """The old pair stays until both fit; that is told once for each change, and counted."""
    registry = Registry()
    contexts = make("a", "b", registry=registry)
    fresh = authority.issue("a.example")
    other = authority.issue("b.example")
    (tmp_path / "a.pem").write_bytes(fresh.chain_pem)
    # What is broken keeps nobody else from changing.
    other.write(tmp_path, "b")
    assert contexts.reload()
    assert Exchange(picked(contexts, "a.example"), client()).leaf == issued["a"].cert
    assert Exchange(picked(contexts, "b.example"), client()).leaf == other.cert
    assert not contexts.reload()
    told = [line for line in logged if "key:" in line]
    assert len(told) == 1
    assert f"key: the key does not belong to the certificate of {tmp_path / 'a.pem'}" in told[0]
    assert told[0].startswith("tls listener=web ")
    # Another change that is no better is told again.
    (tmp_path / "a.key").write_bytes(authority.issue("a.example").key_pem)
    assert not contexts.reload()
    assert len([line for line in logged if "key:" in line]) == 2
    (tmp_path / "a.key").write_bytes(fresh.key_pem)
    assert contexts.reload()
    assert Exchange(picked(contexts, "a.example"), client()).leaf == fresh.cert
    assert list(_numbers(registry).values()) == [2, 2]


def test_stapling(
    make: Make, tmp_path: Path, authority: Authority, wall: Wall, logged: list[str]
) -> None:
    """A response is stapled while it is good; a new one takes no new context."""
    one = authority.issue("a.example")
    one.write(tmp_path, "s")
    staple = tmp_path / "s.ocsp"
    staple.write_bytes(authority.ocsp(one, days=1))
    entry = certificate(chain="s.pem", key="s.key", ocsp="s.ocsp")
    contexts = make(certificates=[entry])

    def stapled() -> bytes:
        got: list[bytes] = []
        assert Exchange(picked(contexts, ""), client(ocsp=got), ocsp=True).good
        return got[0]

    assert stapled() == staple.read_bytes()
    wall.now += 86401
    contexts.tick()
    contexts.tick()
    second = picked(contexts, "")
    assert stapled() == b""
    assert sum("is not stapled: it is stale" in line for line in logged) == 1
    assert contexts.described()[0]["ocsp"] == "stale"
    staple.write_bytes(authority.ocsp(one, days=3))
    assert contexts.reload()
    assert stapled() == staple.read_bytes()
    assert picked(contexts, "") is second
    staple.write_bytes(b"broken")
    contexts.reload()
    assert stapled() != b""


def test_described(make: Make, tmp_path: Path) -> None:
    """Each certificate, with what changes by itself."""
    contexts = make("a", "b")
    entries = contexts.described()
    assert [entry["names"] for entry in entries] == [list(NAMES["a"]), list(NAMES["b"])]
    assert entries[0]["listener"] == "web"
    assert entries[1]["index"] == 1
    assert entries[0]["ocsp"] is None
    assert entries[0]["ticket_generation"] == 1
    assert set(contexts.looks) == {
        str(tmp_path / name) for name in ("a.pem", "a.key", "b.pem", "b.key")
    }
    assert [pair.names for pair in contexts.pairs] == [NAMES["a"], NAMES["b"]]


def _numbers(registry: Registry) -> dict[str, float]:
    return {
        f'{family.name.removeprefix("meshproxy_tls_")}{{listener="{key[0]}"}}': registry.values[
            slot
        ]
        for family in registry.families
        for key, slot in family.series.items()
    }
