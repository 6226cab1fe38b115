"""Files that a configuration names.

Law: a path is relative to the folder of the configuration's own file, wherever the proxy was
started; nothing is opened here.
"""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator

from meshproxy.config.unfit import Unfit, quoted

__all__ = ["FilePath", "folder", "relative"]

_PEM = "-----BEGIN "


def folder(filename: str) -> str:
    """Return the folder that the paths of the configuration in `filename` begin at."""
    return os.path.dirname(os.path.abspath(filename))


def relative(filename: str, path: str) -> str:
    """Return where `path`, written in the configuration in `filename`, leads to."""
    return os.path.join(folder(filename), path)


def _file(value: str) -> str:
    if value.lstrip().startswith(_PEM):
        # Perhaps a key: it is not repeated.
        raise Unfit("the path of a file is needed, and this is what such a file holds")
    if not value or "\0" in value:
        raise Unfit("the path of a file is needed")
    if value.endswith("/"):
        raise Unfit(f"a file is needed, and {quoted(value)} is a directory")
    return value


FilePath = Annotated[str, AfterValidator(_file)]
"""A file that something is read from, or written to."""
