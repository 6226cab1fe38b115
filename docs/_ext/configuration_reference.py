"""
The directive ``configuration-reference``: every key of a configuration.

The law it keeps: it is read from the model when the documentation is built, so that a key cannot
be there and not documented, nor the other way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from meshproxy.config import Configuration
from meshproxy.reference import Key, Section, sections

_CODE = re.compile(r"(`[^`]+`)")


def literal(text: str) -> str:
    """The text with every character that reStructuredText would read as markup escaped."""
    return re.sub(r"([\\*_`|<>])", r"\\\1", text)


def prose(text: str) -> str:
    """A description (```code``` between single backticks) as reStructuredText."""
    made = ""
    for part in _CODE.split(text):
        code = part.startswith("`")
        # Markup stands between ends of words; "\\ " is an end of a word, and nothing else.
        if (
            made
            and part
            and (made[-1].isalnum() if code else made[-1] == "`" and part[0].isalnum())
        ):
            made += "\\ "
        made += f"``{part[1:-1]}``" if code else literal(part)
    return made


def label(name: str) -> str:
    """The anchor of a section of the reference."""
    return f"config-{name.lower()}"


def entry(key: Key, links: Mapping[str, str]) -> Iterator[str]:
    """One key as an item of a definition list; ``links`` are anchors by the names of sections."""
    words = re.split(r"([A-Za-z]+)", key.type)
    kind = "".join(
        f":ref:`{word} <{links[word]}>`" if word in links else literal(word) for word in words
    )
    kind = re.sub(r"(:ref:`[^`]+`)(?=\w)", r"\1\\ ", kind)
    after = {"": "required", "none": "optional"}.get(key.default, f"default ``{key.default}``")
    yield f"``{key.name}`` — {kind}, {after}"
    yield f"    {prose(key.description)}"
    yield ""


def page(found: tuple[Section, ...]) -> Iterator[str]:
    """The whole reference as lines of reStructuredText."""
    links = {section.model.__name__: label(section.model.__name__) for section in found}
    for section in found:
        name = section.model.__name__
        title = name if section.path else "The file"
        yield f".. _{label(name)}:"
        yield ""
        yield title
        yield "=" * len(title)
        yield ""
        yield prose(section.description)
        yield ""
        if section.path:
            yield f"Written at ``{section.path}``."
            yield ""
        for key in section.keys:
            yield from entry(key, links)


class ConfigurationReference(SphinxDirective):
    """``.. configuration-reference::``, without arguments or content."""

    has_content = False
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """The sections, to be read in place of the directive."""
        # Put into the page's own text, so that its titles take their place among the page's.
        lines = list(page(sections(Configuration)))
        self.state_machine.insert_input(lines, "the configuration's model")
        return []


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx asks for this."""
    app.add_directive("configuration-reference", ConfigurationReference)
    # The model decides what the page says, and no source file of the documentation changes with it.
    app.connect("env-get-outdated", lambda *_: ["configuration"])
    return {"parallel_read_safe": True}
