"""What every section of a configuration has in common.

Laws:
- A section is frozen, refuses keys it does not know, and converts nothing: text is text.
- What holds between keys (one of these, this only with that) is declared in class variables or
  in `faults`, which looks at a plain mapping of what was written; so it is found even where a
  value beside it is wrong, and found likewise by whoever builds a section in Python.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from annotated_types import Ge, Gt, Interval, Le, Lt
from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    PlainValidator,
    ValidationInfo,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from meshproxy.config.unfit import Unfit

__all__ = ["Section", "written"]

_BOUNDS = (Ge, Gt, Interval, Le, Lt)


def written(value: object) -> Mapping[str, Any]:
    """Return what was written in a section, whether it is text as read or a built section.

    A shorthand (text in place of a mapping) is an empty mapping: nothing can be wrong between keys.
    """
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in value.model_fields_set}
    if isinstance(value, Mapping):
        return value
    return {}


class Section(BaseModel):
    """A part of the configuration: a mapping whose keys are this class's fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, validate_default=False, allow_inf_nan=False
    )

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys of the vocabulary that are not built yet."""

    exactly_one: ClassVar[tuple[str, ...]] = ()
    """Keys of which one is written, and only one."""

    at_most_one: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys of which no two are written together."""

    references: ClassVar[frozenset[str]] = frozenset()
    """Keys whose value names clusters: a name, or a mapping by name."""

    shorthand: ClassVar[str] = ""
    """The key whose value may be written in place of the whole mapping; "" for none of note."""

    one_or_several: ClassVar[frozenset[str]] = frozenset()
    """Keys that take a list, or the one item of it alone."""

    elsewhere: ClassVar[Mapping[str, str]] = {}
    """Keys that people know from elsewhere, and what they are called here."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Refuse a bound that pydantic would pass over in silence, as the class is made."""
        for name, info in cls.model_fields.items():
            plain = [isinstance(entry, PlainValidator) for entry in info.metadata]
            if not any(plain):
                continue
            before = info.metadata[: plain.index(True)]
            if any(isinstance(entry, _BOUNDS) for entry in before):
                raise TypeError(
                    f"{cls.__qualname__}.{name}: a bound in Field(...) does nothing beside this "
                    "type; write Annotated[THE TYPE, Field(ge=...)]"
                )

    @classmethod
    def is_later(cls, key: str, value: object) -> bool:
        """Return whether `value` of `key` belongs to the vocabulary and is not built yet."""
        return False

    @classmethod
    def faults(cls, given: Mapping[str, Any]) -> Iterator[Unfit]:
        """Yield what is wrong between the keys of `given`, as it was written.

        Each fault's `at` is the key it is about, or () for the section. A value may be of any
        type: it is judged elsewhere.
        """
        groups = (*cls.at_most_one, cls.exactly_one) if cls.exactly_one else cls.at_most_one
        for group in groups:
            there = [key for key in group if key in given]
            for extra in there[1:]:
                yield Unfit(
                    f"'{there[0]}' is there already, and only one of {_listed(group)} can be",
                    at=(extra,),
                )
        if cls.exactly_one and not any(key in given for key in cls.exactly_one):
            yield Unfit(f"one of {_listed(cls.exactly_one)} is needed")

    @model_validator(mode="wrap")
    @classmethod
    def _between_keys(
        cls, data: Any, inner: ModelWrapValidatorHandler[Section], info: ValidationInfo
    ) -> Section:
        """Raise the first of `faults`, unless the context says that they are looked for apart."""
        section = inner(data)
        if not (isinstance(info.context, Mapping) and info.context.get("faults_apart")):
            for fault in cls.faults(written(data)):
                raise fault
        return section

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Add `exactly_one` and `at_most_one`, which pydantic knows nothing of."""
        schema = handler(core_schema)
        rules: list[JsonSchemaValue] = []
        if cls.exactly_one:
            rules.append({"oneOf": [{"required": [key]} for key in cls.exactly_one]})
        for group in cls.at_most_one:
            none: JsonSchemaValue = {"not": {"anyOf": [{"required": [key]} for key in group]}}
            rules.append({"oneOf": [none, *({"required": [key]} for key in group)]})
        if rules:
            handler.resolve_ref_schema(schema)["allOf"] = rules
        return schema


def _listed(names: tuple[str, ...]) -> str:
    """Return `'a', 'b' and 'c'`."""
    shown = [f"'{name}'" for name in names]
    return f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
