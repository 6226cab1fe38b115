"""The JSON Schema of the configuration, for editors.

Law: it is made from the model alone, so it accepts nothing that the model refuses by its keys or
types, and it cannot drift.
"""

from __future__ import annotations

from typing import Any

from meshproxy.config.model import Configuration

__all__ = ["schema"]


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Configuration.model_json_schema(mode="validation"),
        "title": "meshproxy configuration",
    }
