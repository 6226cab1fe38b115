"""The JSON Schema of the configuration, for editors.

Laws:
- It is made from the model alone, so that it cannot drift.
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
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Configuration.model_json_schema(mode="validation", schema_generator=_Written),
        "title": "meshproxy configuration",
    }
