"""The JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Any

from meshproxy.config import Configuration, schema
from meshproxy.plugins import add_directory
from tests.config.texts import DROPINS


def parts(value: Any) -> list[dict[str, Any]]:
    """Every mapping in a schema."""
    if isinstance(value, dict):
        return [value, *(part for inner in value.values() for part in parts(inner))]
    if isinstance(value, list):
        return [part for inner in value for part in parts(inner)]
    return []


def test_it_is_json() -> None:
    """It can be written as it is, and says which draft it follows."""
    found = json.loads(json.dumps(schema()))
    assert found["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(found["properties"]) == set(Configuration.model_fields)


def test_it_accepts_only_what_is_there() -> None:
    """Every section refuses further keys, and none of those to come is among its own."""
    definitions = {**schema()["$defs"], "Configuration": schema()}
    kinds = {"HttpFilter", "InheritedHttpFilter", "ListenerFilter", "TcpFilter"}
    for name, definition in definitions.items():
        assert name in kinds or definition["additionalProperties"] is False
    assert "udp" not in definitions["Listener"]["properties"]
    assert "cors" not in definitions["Route"]["properties"]


def test_the_filters_that_are_installed_are_described() -> None:
    """Each form that a filter may be written in, with its own options; no definition is another."""
    add_directory(DROPINS)
    found = schema()
    definitions = found["$defs"]
    assert definitions["Http"]["properties"]["filters"]["items"] == {"$ref": "#/$defs/HttpFilter"}
    for section in ("Host", "Route"):
        items = definitions[section]["properties"]["filters"]["items"]
        assert items == {"$ref": "#/$defs/InheritedHttpFilter"}
    inherited = definitions["InheritedHttpFilter"]["anyOf"]
    assert inherited[0] == {"$ref": "#/$defs/HttpFilter"}
    assert inherited[1]["additionalProperties"] == {"const": False}

    def forms(kind: str, name: str) -> list[dict[str, Any]]:
        return [form for form in definitions[kind]["anyOf"] if form["title"] == name]

    bare, mapping = forms("HttpFilter", "t_bare")
    assert (bare["const"], mapping["required"]) == ("t_bare", ["t_bare"])
    assert mapping["properties"]["t_bare"] == {"type": "object", "maxProperties": 0}
    (limit,) = forms("HttpFilter", "t_limit")
    assert set(limit["properties"]) == {"t_limit", "as"}
    options = resolved(definitions, limit["properties"]["t_limit"])
    assert {"requests", "size", "per", "keys", "rules"} == set(options["properties"])
    assert options["properties"]["per"]["default"] == "1s"
    rule = resolved(definitions, options["properties"]["rules"]["items"])
    assert set(rule["properties"]) == {"path", "value"}
    (loose,) = forms("HttpFilter", "t_loose")
    assert resolved(definitions, loose["properties"]["t_loose"])["required"] == ["count"]
    short = forms("HttpFilter", "t_short")[1]["properties"]["t_short"]["anyOf"]
    assert [kind["type"] for kind in short] == ["string", "object"]
    assert [len(forms(kind, "t_judge")) for kind in ("HttpFilter", "TcpFilter")] == [0, 2]
    assert forms("ListenerFilter", "t_judge")
    assert not forms("HttpFilter", "t_missing")
    assert not forms("HttpFilter", "t_datagram")


def test_every_reference_leads_somewhere() -> None:
    """Whatever a filter's models are called, no reference is left without its definition."""
    found = schema()
    for part in parts(found):
        if isinstance(part.get("$ref"), str):
            assert part["$ref"].removeprefix("#/$defs/") in found["$defs"]


def resolved(definitions: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """The definition that a part refers to, or the part."""
    if "$ref" in part:
        return definitions[part["$ref"].removeprefix("#/$defs/")]  # type: ignore[no-any-return]
    return part


def test_shorthands_are_described() -> None:
    """Text in place of a mapping is accepted by editors where it is by the proxy."""
    definitions = schema()["$defs"]
    kinds = [kind.get("type") for kind in definitions["Route"]["properties"]["to"]["anyOf"]]
    assert kinds == ["string", "object"]
    items = definitions["Cluster"]["properties"]["endpoints"]["items"]
    assert items["anyOf"] == [{"type": "string"}, {"$ref": "#/$defs/Endpoint"}]


def test_there_is_no_null_and_defaults_are_as_written() -> None:
    """A key is written or left out, and a duration's default is text like any duration."""
    assert not [part for part in parts(schema()) if part.get("type") == "null"]
    assert schema()["$defs"]["Route"]["properties"]["timeout"]["default"] == "15s"
    assert schema()["$defs"]["Http"]["properties"]["idle_timeout"]["default"] == "1h"
    assert "default" not in schema()["$defs"]["Route"]["properties"]["rewrite"]


def test_a_number_is_no_duration() -> None:
    """Percent and factors are numbers, with defaults and bounds that are numbers."""
    keys = schema()["$defs"]["Cluster"]["properties"]
    assert (keys["panic_threshold"]["type"], keys["panic_threshold"]["default"]) == ("number", 50)
    assert keys["overprovisioning"]["default"] == 1.4
    breaker = schema()["$defs"]["CircuitBreaker"]["properties"]
    assert breaker["base_ejection_time"]["default"] == "30s"
    assert breaker["max_ejection_percent"]["default"] == 10
    assert (
        breaker["max_ejection_percent"]["minimum"],
        breaker["max_ejection_percent"]["maximum"],
    ) == (0, 100)


def test_a_section_has_the_defaults_of_its_keys() -> None:
    """What a section is when it is left out is said once, at its keys."""
    keys = schema()["$defs"]["Cluster"]["properties"]
    for name in ("pool", "limits", "dns", "subsets", "endpoint_limits"):
        assert "default" not in keys[name]
    assert schema()["$defs"]["Limits"]["properties"]["pending"]["default"] == 1024


def test_the_shorthands_of_upstreams_are_described() -> None:
    """A hash key, a cookie, a mirror, a check: text is accepted where the proxy accepts it."""
    definitions = schema()["$defs"]
    hash_by = definitions["Route"]["properties"]["hash_by"]["anyOf"]
    assert [kind.get("type", "section") for kind in hash_by] == ["string", "section", "array"]
    for section, key in (
        ("Route", "mirror"),
        ("HashBy", "cookie"),
        ("Sticky", "cookie"),
        ("Cluster", "slow_start"),
        ("HealthCheck", "http"),
        ("HealthCheck", "dns"),
        ("Http", "x_forwarded_client_cert"),
    ):
        kinds = definitions[section]["properties"][key]["anyOf"]
        assert kinds[0] == {"type": "string"}, (section, key)
        assert "$ref" in kinds[1]
    assert definitions["HealthCheck"]["properties"]["icmp"]["const"] is True
    ways = ("http", "tcp", "icmp", "dns", "command", "plugin")
    one = {"oneOf": [{"required": [key]} for key in ways]}
    assert one in definitions["HealthCheck"]["allOf"]


def test_one_of_several_is_described() -> None:
    """An editor sees that a listener is http or tcp, and a path is matched one way."""
    definitions = schema()["$defs"]
    assert {"oneOf": [{"required": ["http"]}, {"required": ["tcp"]}]} in (
        definitions["Listener"]["allOf"]
    )
    assert len(definitions["Match"]["allOf"][0]["oneOf"]) == 4


def test_tls_is_described() -> None:
    """`tls: true` of a cluster, `tickets: false`, and versions that are text."""
    definitions = schema()["$defs"]
    kinds = definitions["Cluster"]["properties"]["tls"]["anyOf"]
    assert kinds == [{"const": True, "type": "boolean"}, {"$ref": "#/$defs/ClusterTls"}]
    listener = definitions["ListenerTls"]["properties"]
    assert listener["tickets"]["anyOf"] == [{"type": "boolean"}, {"$ref": "#/$defs/Tickets"}]
    assert listener["min_version"]["enum"] == ["1.2", "1.3"]
    assert (listener["handshake_timeout"]["default"], listener["max_handshakes"]["default"]) == (
        "10s",
        4096,
    )
    assert definitions["Tickets"]["properties"]["rotate"]["default"] == "12h"
    assert {"oneOf": [{"required": ["chain"]}, {"required": ["pkcs12"]}]} in (
        definitions["Certificate"]["allOf"]
    )
