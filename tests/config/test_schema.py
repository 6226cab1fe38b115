"""The JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Any

from meshproxy.config import Configuration, schema


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
    for definition in definitions.values():
        assert definition["additionalProperties"] is False
    assert "tls" not in definitions["Listener"]["properties"]
    assert "retry" not in definitions["Route"]["properties"]


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


def test_one_of_several_is_described() -> None:
    """An editor sees that a listener is http or tcp, and a path is matched one way."""
    definitions = schema()["$defs"]
    assert {"oneOf": [{"required": ["http"]}, {"required": ["tcp"]}]} in (
        definitions["Listener"]["allOf"]
    )
    assert len(definitions["Match"]["allOf"][0]["oneOf"]) == 4
