"""The JSON Schema of the configuration, for editors.

Laws:
- It is made from the model, and from the models of the filters that are installed, so that it
  cannot drift.
- It shows what a person may write: no `null` (a key is written or left out), and defaults as they
  would be written.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from meshproxy.config.model import Configuration
from meshproxy.config.values import format_duration

__all__ = ["schema"]


class _Written(GenerateJsonSchema):
    """Describes values as they are written, not as they are kept."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        """Return the schema of the value alone: None only ever stands for a key left out."""
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """Return the schema with its default as it is written, unless that is left out.

        A float is a duration where the schema does not call it a number. A section's default is
        the section's own affair: each of its keys has one.
        """
        described = super().default_schema(schema)
        default = described.get("default", ...)
        if default is None or (isinstance(default, dict) and "$ref" in described):
            del described["default"]
        elif isinstance(default, float) and described.get("type") != "number":
            described["default"] = format_duration(default)
        return described


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file."""
    described = Configuration.model_json_schema(mode="validation", schema_generator=_Written)
    _hoist(described["$defs"])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **described,
        "title": "meshproxy configuration",
    }


def _hoist(definitions: dict[str, Any]) -> None:
    """Put what an item of a list of filters may be into `definitions`, once a kind."""
    for definition in list(definitions.values()):
        for name in ("filters", "listener_filters"):
            held = definition.get("properties", {}).get(name, {})
            item = held.get("items", {})
            if item.get("title", "").endswith(" filter"):
                key = "".join(word.capitalize() for word in item["title"].split())
                definitions[key] = item
                held["items"] = {"$ref": f"#/$defs/{key}"}
    inner = definitions["InheritedHttpFilter"]
    *filters, off = inner["anyOf"]
    if filters == definitions["HttpFilter"].get("anyOf", []):
        inner["anyOf"] = [{"$ref": "#/$defs/HttpFilter"}, off]
