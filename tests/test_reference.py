"""What a model takes, as text, is read from the model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from meshproxy.config import Configuration
from meshproxy.config.fields import Duration, Size
from meshproxy.config.filters import HttpFilter
from meshproxy.reference import keys, kind, lines, sections


class Inner(BaseModel):
    """What is inside."""

    deep: bool = Field(default=True, description="Whether.")


class Outer(BaseModel):
    """What is
    outside."""

    wait: Duration = Field(default=90.0, description="How long.")
    room: Size = Field(default=2048, description="How much.")
    odd: Size | None = Field(default=None, description="How odd.")
    name: str = Field(description="Who.")
    empty: str = Field(default="", description="Nobody.")
    many: dict[str, Inner] = Field(default={}, description="Which.")
    share: float = Field(default=50.0, description="What part.")
    again: list[Annotated[Inner, "seen already"]] = Field(default=[], description="Again.")
    one: Literal["a", "b"] = Field(default="b", description="One of.")


def test_keys_have_type_default_and_description() -> None:
    """Types are told in the words of configurations, defaults as YAML writes them."""
    told = {key.name: (key.type, key.default, key.description) for key in keys(Outer)}
    assert told == {
        "wait": ("duration", "1m30s", "How long."),
        "room": ("size", "2KiB", "How much."),
        "odd": ("size", "none", "How odd."),
        "name": ("text", "", "Who."),
        "empty": ("text", '""', "Nobody."),
        "many": ("mapping of text to Inner", "{}", "Which."),
        "share": ("number", "50", "What part."),
        "again": ("list of Inner", "[]", "Again."),
        "one": ("a | b", "b", "One of."),
    }


def test_sections_are_found_by_their_path() -> None:
    """Every model inside is a section, once, at the first path that reaches it."""
    told = [(section.path, section.model, section.description) for section in sections(Outer)]
    assert told == [("", Outer, "What is outside."), ("many.NAME", Inner, "What is inside.")]


def test_kinds() -> None:
    """Unions, lists and plain types in words."""
    assert kind(list[HttpFilter]) == "list of filter"
    assert kind(int | None) == "number"
    assert kind(list[str]) == "list of text"
    assert kind(bool | str) == "true or false or text"
    assert kind(dict[str, list[int]]) == "mapping of text to list of number"


def test_the_configuration_is_fully_described() -> None:
    """Every section and every key of the configuration says what it means, and none by a class."""
    found = sections(Configuration)
    names = {section.model.__name__ for section in found}
    assert {"Listener", "Http", "Route", "Match", "Cluster", "Pool", "Admin", "Tcp"} <= names
    for section in found:
        assert section.description, section.model
        for key in section.keys:
            assert key.description, f"{section.path}.{key.name}"
            assert "typing." not in key.type
            assert "Address" not in key.type


def test_addresses_and_shorthands_are_named() -> None:
    """An address is one to look up or not; what has a short form is told by its section."""
    told = {
        (section.model.__name__, key.name): key.type
        for section in sections(Configuration)
        for key in section.keys
    }
    assert told["Endpoint", "address"] == "address"
    assert told["Listener", "listen"] == "address"
    assert told["Route", "hash_by"] == "list of HashBy"
    assert told["HealthCheck", "http"] == "HttpCheck"
    assert told["HealthCheck", "icmp"] == "true"
    assert told["HealthCheck", "plugin"] == "plugin"
    words = "round_robin | random | least_request | ring_hash | maglev | plugin"
    assert told["Cluster", "balance"] == words
    assert told["Http", "access_log"] == "list of AccessLog"
    assert told["Cluster", "panic_threshold"] == "number"
    assert told["CircuitBreaker", "base_ejection_time"] == "duration"
    assert told["Certificate", "chain"] == "file"
    assert told["Cluster", "tls"] == "ClusterTls"
    assert told["ListenerTls", "tickets"] == "Tickets or false"
    assert told["ListenerTls", "min_version"] == "1.2 | 1.3"
    assert told["ClusterTls", "names"] == "list of DNS name or IP address"
    assert told["TlsMatch", "server_names"] == "list of DNS name, *.suffix or *"


class Alone(BaseModel):
    """One that may be written alone, with itself inside."""

    shorthand: ClassVar[str] = "name"

    name: str = Field(description="Who.")
    inner: Inner = Field(default=Inner(), description="In.")
    place: list[Inner] = Field(default=[Inner(deep=False)], description="At.")
    others: list[Alone] = Field(default=[], description="More.")


def test_lines() -> None:
    """On a terminal the keys of what is inside stand below it, once, whatever refers to whom."""
    assert list(lines(Alone)) == [
        "The value of 'name' may stand alone.",
        "",
        "name: text",
        "    Who.",
        "inner: Inner = its defaults",
        "    In.",
        "    deep: true or false = true",
        "        Whether.",
        "place: list of Inner = [{deep: false}]",
        "    At.",
        "    (Inner: as above)",
        "others: list of Alone = []",
        "    More.",
        "    (Alone: as above)",
    ]
    assert "    (Inner: as above)" in lines(Outer)
