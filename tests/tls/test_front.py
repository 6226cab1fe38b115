"""The context that picks by itself, where no hello is read beforehand."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from OpenSSL import SSL

from meshproxy.tls.contexts import ServerContexts
from meshproxy.tls.facts import Facts
from tests.tls.authority import Authority, Issued
from tests.tls.exchange import Exchange, certificate, client, listener_tls

Make = Callable[..., ServerContexts]


@pytest.fixture(scope="module")
def issued() -> dict[str, Issued]:
    """One certificate for each of two names."""
    authority = Authority()
    return {stem: authority.issue(f"{stem}.example") for stem in "ab"}


@pytest.fixture
def make(tmp_path: Path, issued: dict[str, Issued]) -> Make:
    """Contexts of the certificates named, whose files are in ``tmp_path``."""
    for stem, one in issued.items():
        one.write(tmp_path, stem)

    def made(*stems: str, **given: object) -> ServerContexts:
        entries = [certificate(chain=f"{stem}.pem", key=f"{stem}.key") for stem in stems]
        config = listener_tls(**{"certificates": entries, **given})
        return ServerContexts(config, "web", str(tmp_path), time.time)

    return made


def test_a_context_that_picks_by_itself(make: Make, issued: dict[str, Issued]) -> None:
    """Where no hello is read beforehand, OpenSSL asks by name, and resumes as well."""
    contexts = make("a", "b")
    for name, stem in (("b.example", "b"), ("B.example", "b"), ("zzz", "a"), ("", "a")):
        assert Exchange(contexts.front, client(), name).leaf == issued[stem].cert
    assert contexts.front is contexts.front
    for version in ("1.2", "1.3"):
        able = client(version=version)
        done = Exchange(contexts.front, able, "b.example")
        again = Exchange(contexts.front, able, "b.example", done.session)
        assert (again.good, again.resumed) == (True, True)


def test_it_lives_as_long_as_who_began_with_it(make: Make) -> None:
    """A second hello asks the first context again, though another is the front by then."""
    contexts = make("a", "b", curves=["P-384"])
    retrying = client()
    lib = vars(SSL)["_lib"]
    assert lib.SSL_CTX_set1_curves_list(vars(retrying)["_context"], b"X25519:P-384") == 1
    one, other = SSL.Connection(retrying, None), SSL.Connection(contexts.front, None)
    one.set_connect_state()
    one.set_tlsext_host_name(b"b.example")
    other.set_accept_state()
    for teller, hearer in ((one, other), (other, one)):
        with pytest.raises(SSL.WantReadError):
            teller.do_handshake()
        hearer.bio_write(teller.bio_read(65536))
    front = weakref.ref(contexts.front)
    contexts.rotate()
    assert contexts.front is not front()
    gc.collect()
    assert front() is not None
    for teller, hearer in ((one, other), (other, one)):
        with pytest.raises(SSL.WantReadError):
            teller.do_handshake()
        hearer.bio_write(teller.bio_read(65536))
    one.do_handshake()
    del one, other, teller, hearer
    gc.collect()
    assert front() is None


def test_names_are_read_as_on_a_socket(make: Make, issued: dict[str, Issued]) -> None:
    """A trailing dot is none, and what is no name is no name that is unknown."""
    contexts = make("a", "b", unknown_names="refuse")
    for name, stem in (("B.example.", "b"), ("not a name", "a"), ("x.\x7f", "a")):
        done = Exchange(contexts.front, client(), name)
        assert done.good
        assert done.leaf == issued[stem].cert
        assert Facts(done.server).server_name == (b"b.example" if stem == "b" else b"")


def test_it_refuses_unknown_names(make: Make) -> None:
    """By the alert that says so."""
    contexts = make("a", unknown_names="refuse")
    done = Exchange(contexts.front, client(), "zzz.example")
    assert "unrecognized name" in done.alert
    assert Exchange(contexts.front, client(), "").good
