"""The items of a chain of filters, the choices beside them, and what may be written as one.

Laws:
- An item that exists names a filter that is installed and of the chain's kind, and holds options
  that its model accepts. Where a configuration names no filter, none is searched for.
- What a filter is given is never shown: neither in a `repr`, nor in a dump where a field is a
  secret by its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from meshproxy.config.fields import check_entry_name
from meshproxy.config.files import relative
from meshproxy.config.place import Path, render
from meshproxy.config.reader import Node
from meshproxy.config.section import Section
from meshproxy.config.unfit import Unfit, closest, quoted
from meshproxy.errors import PluginError, Problem

if TYPE_CHECKING:
    from meshproxy.plugins import Plugins

__all__ = [
    "AccessLogPlugin",
    "Balance",
    "Chain",
    "CheckPlugin",
    "Choice",
    "ConnectionFilter",
    "DiscoveryPlugin",
    "FilterItem",
    "HttpFilter",
    "InnerHttpFilter",
    "Installed",
    "ListenerFilter",
    "Written",
    "as_key",
    "as_name",
    "is_secret",
    "masked",
    "search_directories",
    "serving",
]

_SECRET = frozenset(
    {
        "authorization",
        "key",
        "keys",
        "password",
        "passwords",
        "secret",
        "secrets",
        "token",
        "tokens",
        "users",
    }
)
"""Names of options whose values are never shown."""


@dataclass(frozen=True, slots=True)
class FilterItem:
    """A filter at a place in the configuration.

    `name` is the plugin's, `label` the item's name in its chain, `kind` that of the chain.
    `factory` makes the filter from `options`: an instance of the factory's model, or None where it
    has none. `off` switches the inherited filter of that label off; then there is no factory.
    """

    name: str
    label: str
    kind: str
    factory: Any = field(default=None, repr=False, hash=False)
    options: Any = field(default=None, repr=False, hash=False)
    off: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """An item as it is written, its filter found, its options (`data`) not validated yet."""

    name: str
    label: str
    factory: Any = None
    model: type[BaseModel] | None = None
    data: Any = None
    off: bool = False


class Installed:
    """The filters that are installed, searched for when somebody asks."""

    def __init__(self) -> None:
        self._found: Plugins | None = None
        self._fresh = False

    def plugins(self, *, fresh: bool = False) -> Plugins:
        """What was found; with `fresh`, past Twisted's cache."""
        if self._found is None or (fresh and not self._fresh):
            # Only a configuration with filters pays for the search, and for importing what does it.
            from twisted.python import log

            from meshproxy.interfaces import IFilterFactory
            from meshproxy.plugins import find

            self._found = find(IFilterFactory, fresh=fresh)
            for line in self._found.broken:
                log.msg(f"plugins: {line}")
            self._fresh = fresh
        return self._found

    def get(self, name: str, kind: str) -> Any:
        """Return the filter called `name` of this kind. Raises `Unfit` that says why not."""
        plugins = self.plugins()
        if name not in plugins.by_name and name not in plugins.refused:
            plugins = self.plugins(fresh=True)
        if name not in plugins.by_name and name not in plugins.refused:
            broken = f" ({'; '.join(plugins.broken)})" if plugins.broken else ""
            near = plugins.near(name, kind)
            raise Unfit(f"there is no {_noun(kind)} {quoted(name)}{broken}", near)
        try:
            return plugins.get(name, kind)
        except PluginError as error:
            raise Unfit(str(error)) from None

    def of(self, kind: str) -> dict[str, Any]:
        """Every filter of this kind that can be used, by name."""
        return self.plugins().of(kind)


@dataclass(frozen=True, slots=True)
class Chain:
    """What the items of one list are: filters of a `kind`, which may be `inherited`."""

    kind: str
    inherited: bool = False

    def written(self, raw: Any, installed: Installed) -> Written:
        """Return the item that `raw` (text, or a mapping) is. Raises `Unfit`."""
        if isinstance(raw, str):
            factory = installed.get(raw, self.kind)
            return Written(raw, raw, factory, factory.options, {})
        if not isinstance(raw, Mapping):
            what = "nothing" if raw is None else "a list" if isinstance(raw, list) else quoted(raw)
            raise Unfit(f"{self.wanted}, or 'NAME: {{options}}', not {what}")
        names = [key for key in raw if key != "as"]
        if not names:
            raise Unfit(f"the name of {self.a_plugin} is missing")
        name = names[0]
        if len(names) > 1:
            extra = names[1]
            if raw[name] is None:
                message = f"'{extra}' has to stand further in, to be an option of '{name}'"
            else:
                message = self.another(extra)
            raise Unfit(message, at=(extra,))
        if raw[name] is False:
            return self._off(name, raw)
        factory = installed.get(name, self.kind)
        model = factory.options
        data = raw[name]
        if data is None:
            raise Unfit(
                f"'{name}' has no value; give it options, or write its name without the ':'",
                at=(name,),
            )
        if model is None:
            if data != {}:
                raise Unfit(f"the {_noun(self.kind)} '{name}' has no options", at=(name,))
        elif not isinstance(data, Mapping) and (alone := getattr(model, "shorthand", "")):
            data = {alone: data}
        return Written(name, _label(raw, name), factory, model, data)

    @property
    def a_plugin(self) -> str:
        """What a plugin is called here, with its article."""
        return "a filter"

    @property
    def wanted(self) -> str:
        """What is expected here, but for the word "or"."""
        return f"the name of {self.a_plugin} is expected"

    def another(self, name: str) -> str:
        """Return what is said of a second plugin in one item."""
        return f"'{name}' begins another filter, so a '-' goes before it"

    def _off(self, name: str, raw: Mapping[str, Any]) -> Written:
        if "as" in raw:
            message = f"'as' does nothing here: write '{quoted(raw['as'])[1:-1]}: false'"
            raise Unfit(message, at=("as",))
        if not self.inherited:
            raise Unfit("no filter is inherited here, so none can be switched off", at=(name,))
        return Written(name, name, off=True)

    def item(self, raw: Any, info: ValidationInfo) -> FilterItem:
        """Return the item that `raw` is, validated: the validator of such an item."""
        if isinstance(raw, FilterItem):
            if raw.kind != self.kind or (raw.off and not self.inherited):
                raise Unfit(f"the {_noun(raw.kind)} '{raw.label}' cannot be used here")
            return raw
        context = info.context
        apart = isinstance(raw, Written)
        if not isinstance(raw, Written):
            raw = self.written(raw, Installed())
        if raw.model is None:
            options = None
        else:
            # Only what was examined has had its faults looked for.
            examined = apart and issubclass(raw.model, Section)
            adapter = _by_name(raw.model)
            options = adapter.validate_python(
                {raw.name: raw.data}, context=context if examined else None
            )[raw.name]
        return FilterItem(raw.name, raw.label, self.kind, raw.factory, options, raw.off)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """An item is validated by :meth:`item`, and dumped as it may be written."""
        return core_schema.with_info_plain_validator_function(
            self.item,
            serialization=core_schema.plain_serializer_function_ser_schema(_dumped, info_arg=True),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One of the filters of this kind that are installed, and its options."""
        forms: list[JsonSchemaValue] = []
        for name, factory in Installed().of(self.kind).items():
            described = {"title": name, "description": factory.help}
            model = factory.options
            if model is None:
                options: JsonSchemaValue = {"type": "object", "maxProperties": 0}
            else:
                options = handler(model.__pydantic_core_schema__)
                alone = getattr(model, "shorthand", "")
                if alone:
                    fields = handler.resolve_ref_schema(options)["properties"]
                    options = {"anyOf": [fields[alone], options]}
            if model is None or _optional(model):
                forms.append({"const": name, **described})
            forms.append(
                {
                    "type": "object",
                    "properties": {name: options, "as": {"type": "string"}},
                    "required": [name],
                    "additionalProperties": False,
                    **described,
                }
            )
        if self.inherited:
            forms.append(
                {
                    "type": "object",
                    "additionalProperties": {"const": False},
                    "minProperties": 1,
                    "maxProperties": 1,
                    "description": "Switch the inherited filter of this name off.",
                }
            )
        title = f"{'Inherited ' if self.inherited else ''}{self.kind} filter"
        return {"title": title, "anyOf": forms} if forms else {"title": title, "not": {}}


@dataclass(frozen=True, slots=True)
class Choice(Chain):
    """A plugin of a `kind` in the one place for it; `words` may stand there too."""

    words: tuple[str, ...] = ()

    def is_word(self, raw: Any) -> bool:
        """Return whether `raw` is one of the words, and so no plugin."""
        return isinstance(raw, str) and raw in self.words

    @property
    def a_plugin(self) -> str:
        """What a plugin is called here, with its article."""
        noun = _noun(self.kind)
        return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"

    @property
    def wanted(self) -> str:
        """What is expected here, but for the word "or"."""
        if not self.words:
            return f"the name of {self.a_plugin} is expected"
        return f"{self._words()} is expected, the name of {self.a_plugin}"

    def _words(self) -> str:
        return f"{', '.join(self.words[:-1])} or {self.words[-1]}"

    def another(self, name: str) -> str:
        """Return what is said of a second plugin."""
        return f"'{name}' cannot be here too: one {_noun(self.kind)} is chosen"

    def written(self, raw: Any, installed: Installed) -> Written:
        """Return the plugin that `raw` (text, or a mapping) chooses. Raises `Unfit`."""
        if self.words and isinstance(raw, str):
            try:
                return Chain.written(self, raw, installed)
            except Unfit as error:
                near = closest(raw, self.words) or error.suggestion
                nothing = f"there is no {_noun(self.kind)} {quoted(raw)}"
                more = "" if error.message == nothing else f"; {error.message}"
                raise Unfit(
                    f"{self._words()} is expected, or {self.a_plugin} that is installed, not "
                    f"the text {quoted(raw)}{more}",
                    near,
                ) from None
        return Chain.written(self, raw, installed)

    def item(self, raw: Any, info: ValidationInfo) -> Any:
        """Return the word or the item that `raw` is."""
        return raw if self.is_word(raw) else Chain.item(self, raw, info)

    def _off(self, name: str, raw: Mapping[str, Any]) -> Written:
        raise Unfit(f"'{name}' has options or none; false is for filters", at=(name,))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """One of the words, or one of the plugins of this kind that are installed."""
        described = Chain.__get_pydantic_json_schema__(self, schema, handler)
        described["title"] = _noun(self.kind)
        if self.words:
            words = {"enum": list(self.words)}
            if "anyOf" not in described:
                return words
            described["anyOf"].insert(0, words)
        return described


Balance = Annotated[
    str | FilterItem,
    Choice("balancer", words=("round_robin", "random", "least_request", "ring_hash", "maglev")),
]
DiscoveryPlugin = Annotated[FilterItem, Choice("discovery")]
CheckPlugin = Annotated[FilterItem, Choice("health_check")]
AccessLogPlugin = Annotated[FilterItem, Choice("access_log")]

HttpFilter = Annotated[FilterItem, Chain("http")]
InnerHttpFilter = Annotated[FilterItem, Chain("http", inherited=True)]
ConnectionFilter = Annotated[FilterItem, Chain("tcp")]
ListenerFilter = Annotated[FilterItem, Chain("listener")]


def _label(raw: Mapping[str, Any], name: str) -> str:
    if "as" not in raw:
        return name
    label = raw["as"]
    if not isinstance(label, str):
        raise Unfit(f"text is expected, not {quoted(label)}", at=("as",))
    try:
        return check_entry_name(label)
    except Unfit as error:
        raise Unfit(error.message, error.suggestion, at=("as",)) from None


@cache
def _by_name(model: type[BaseModel]) -> TypeAdapter[dict[str, Any]]:
    """What validates options under their filter's name, so that their places begin with that."""
    return TypeAdapter(dict[str, model])  # type: ignore[valid-type]


def _optional(model: type[BaseModel]) -> bool:
    """Return whether nothing has to be written."""
    try:
        model.model_validate({})
    except ValidationError:
        return False
    return True


def is_secret(path: Path) -> bool:
    """Return whether `path` leads into an option of a plugin whose value is never shown."""
    inside = not {"filters", "listener_filters", "plugin", "balance"}.isdisjoint(path)
    return inside and any(isinstance(step, str) and step.lower() in _SECRET for step in path)


def masked(value: Any) -> Any:
    """Return dumped options with everything that is a secret by its name as `***`."""
    if isinstance(value, Mapping):
        return {
            key: "***"
            if str(key).lower() in _SECRET and inner not in (None, [], {})
            else masked(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple):
        return [masked(inner) for inner in value]
    return value


def _noun(kind: str) -> str:
    # Only a configuration with plugins pays for importing what finds them.
    from meshproxy.plugins import noun

    return noun(kind)


def _dumped(item: FilterItem | str, info: Any) -> Any:
    if isinstance(item, str):
        return item
    if item.off:
        return {item.label: False}
    options = {}
    if item.options is not None:
        options = masked(
            item.options.model_dump(mode="json", exclude_unset=info.exclude_unset, fallback=str)
        )
    if not options and item.label == item.name:
        return item.name
    dumped: dict[str, Any] = {item.name: options}
    if item.label != item.name:
        dumped["as"] = item.label
    return dumped


def as_name(chosen: object) -> str:
    """Return the word or the plugin's name that a choice is; "" where it was refused."""
    if isinstance(chosen, FilterItem | Written):
        return chosen.name
    return chosen if isinstance(chosen, str) else ""


def as_key(name: str, filter: str = "", bare: bool = False) -> str:  # noqa: A002
    """Return what is said of the key `name` where the filter (of that name) is meant."""
    filter = filter or name  # noqa: A001
    item = filter if bare else f"{filter}: {{...}}"
    return f"a filter, written 'filters: [{item}]',"


def serving(items: Any) -> tuple[int, str] | None:
    """Return the index and label of the first item that serves connections itself, or None.

    `items` is what a list of filters holds: validated, examined, or as it is written.
    """
    if not isinstance(items, Sequence) or isinstance(items, str):
        return None
    for index, item in enumerate(items):
        if not isinstance(item, FilterItem | Written):
            try:
                item = Chain("tcp").written(item, Installed())
            except Unfit:
                continue  # the item itself is reported
        if item.factory is not None:
            from meshproxy.plugins import serves

            if serves(item.factory):
                return index, item.label
    return None


def search_directories(root: Node, filename: str) -> list[Problem]:
    """Have the directories of `plugins` searched for plugins; return what is wrong with them.

    They are relative to the directory of the file.
    """
    entry = root.entries.get("plugins")
    found: list[Problem] = []
    if entry is None or entry.node.kind != "list":
        return found
    for index, node in enumerate(entry.node.items):
        if not isinstance(node.scalar, str) or not node.scalar or "\0" in node.scalar:
            continue  # the field itself reports it
        directory = relative(filename, node.scalar)
        if os.path.isdir(directory):
            from meshproxy.plugins import add_directory

            add_directory(directory)
            continue
        why = "is a file" if os.path.exists(directory) else "is not there"
        message = f"the directory {quoted(directory)} {why}"
        path = render(("plugins", index))
        found.append(Problem("error", filename, node.line, node.column, path, message))
    return found
