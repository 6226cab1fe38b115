"""
The directive ``filter-options``: every option of a filter.

The law it keeps: it is read from the filter's model when the documentation is built, as the plugin
offers it, so that an option cannot be there and not documented, nor the other way round. A model
that the configuration's reference has too is not shown twice: its name leads there.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar

from configuration_reference import entry, label, literal, prose
from docutils import nodes
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from meshproxy.api import FilterPlugin
from meshproxy.config import Configuration
from meshproxy.reference import sections
from twisted.plugins import meshproxy_filters


def plugin(kind: str, name: str) -> FilterPlugin:
    """The built-in filter ``name`` of a kind. Raises ``LookupError`` when there is none."""
    for found in vars(meshproxy_filters).values():
        if isinstance(found, FilterPlugin) and found.name == name and kind in found.kinds:
            return found
    raise LookupError(f"there is no filter '{name}' of kind '{kind}'")


@cache
def elsewhere() -> dict[type[BaseModel], str]:
    """The anchors of the models that the configuration's reference shows."""
    return {found.model: label(found.model.__name__) for found in sections(Configuration)}


def page(kind: str, name: str, model: type[BaseModel] | None) -> Iterator[str]:
    """The options of the filter ``name`` of a kind as lines of reStructuredText."""
    if model is None:
        yield "It has no options."
        yield ""
        return
    outer, *nested = sections(model)
    shown = {found.model: found for found in nested if found.model not in elsewhere()}
    links = {
        found.model.__name__: elsewhere().get(
            found.model, f"filter-{kind}-{name}-{found.model.__name__.lower()}"
        )
        for found in nested
    }
    if not outer.keys:
        yield "It has no options."
        yield ""
    alone = getattr(model, "shorthand", "")
    if alone:
        yield f"The value of ``{alone}`` may stand alone, in place of the mapping."
        yield ""
    for key in outer.keys:
        yield from entry(key, links)
    for found in shown.values():
        yield f".. _{links[found.model.__name__]}:"
        yield ""
        yield f".. rubric:: {literal(found.model.__name__)}"
        yield ""
        yield prose(found.description)
        yield ""
        yield f"Written at ``{found.path}``."
        yield ""
        for key in found.keys:
            yield from entry(key, links)


class FilterOptions(SphinxDirective):
    """``.. filter-options:: KIND NAME``, without content."""

    has_content = False
    required_arguments = 2
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The options, to be read in place of the directive."""
        kind, name = self.arguments
        try:
            model = plugin(kind, name).options
        except LookupError as error:
            raise self.error(str(error)) from None
        self.state_machine.insert_input(list(page(kind, name, model)), "the filter's options")
        return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx asks for this."""
    app.add_directive("filter-options", FilterOptions)
    # The model decides what the page says, and no source file of the documentation changes with it.
    app.connect(
        "env-get-outdated",
        lambda _, env, *__: [name for name in env.found_docs if name.startswith("filters/")],
    )
    return {"parallel_read_safe": True}
