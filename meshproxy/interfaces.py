"""
Every public interface of meshproxy.

Laws:

- This module imports zope and the standard library only, never the reactor: whoever writes a
  plugin can import it anywhere.
- What is declared here is asked for somewhere: an interface comes with the code that calls it.
"""

from __future__ import annotations

from typing import Any

from zope.interface import Attribute, Interface

__all__ = ["IBalancer", "IFilterFactory"]


class IFilterFactory(Interface):
    """
    What a plugin offers: a kind of filter, by its name.

    A plugin is an object in any ``twisted/plugins/*.py`` on the path that provides this and
    ``twisted.plugin.IPlugin``. It is found when the process starts and verified
    (``zope.interface.verify.verifyObject``); a plugin that does not provide what it promises is
    refused by name, and so are two of one name.
    """

    name = Attribute("The name, as configurations and ``--help-filter`` say it: a str.")
    help = Attribute("One line for ``--help-filters``: a str.")
    options = Attribute(
        """
        The filter's options: a pydantic model class (frozen, extra keys forbidden, a description
        on every field), or None for a filter that has none. ``--help-filter`` shows its fields.
        """
    )

    def create(options: Any) -> Any:
        """
        Return a filter.

        ``options`` is an instance of the ``options`` model, or None where that is None. Raises
        ``ValueError`` for options that cannot work together; its message is shown to the user.
        """


class IBalancer(Interface):
    """The choice of an endpoint of a cluster."""

    def pick() -> Any:
        """
        Return the endpoint that the next request or connection goes to.

        Called for every one of them, so O(1), or O(log n) where weights differ; it must not
        raise and must not wait.
        """
