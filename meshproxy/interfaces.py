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

__all__ = ["IBalancer", "IDiscovery", "IFilterFactory", "IHashBalancer", "IHealthCheck"]


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
    """The choice of an endpoint among those that are well."""

    def pick() -> Any:
        """
        Return the endpoint that the next request or connection goes to.

        Called for every one of them, so O(1), or O(log n) where weights differ; it must not
        raise and must not wait.
        """


class IHashBalancer(Interface):
    """The choice of an endpoint by a number, the same for the same number."""

    def pick_by(number: int) -> Any:
        """
        Return the endpoint for ``number`` (64 bits, well mixed), or None when none is ``usable``.

        It knows every endpoint, and passes over those that are not ``usable`` at this moment, so
        that an endpoint that goes and comes back moves its own keys only. O(log n) at most while
        the endpoints are well; it must not raise and must not wait.
        """


class IDiscovery(Interface):
    """A source of endpoints."""

    def start(update: Any, failed: Any) -> None:
        """
        Begin. ``update(specs)`` is to be called with the whole set of endpoints, a sequence of
        :class:`meshproxy.upstream.endpoint.EndpointSpec`, now or later, and again whenever it
        changed. A source that fails calls ``failed(reason)``, a str, in its place: what was known
        last stays in use. Neither is called within this call but where nothing has to be waited
        for.
        """

    def stop() -> None:
        """End for good: every timer and request is cancelled, ``update`` is not called again."""

    def describe() -> Any:
        """A dictionary for the admin: where it looks, when it last succeeded, the last error."""


class IHealthCheck(Interface):
    """A way of asking an endpoint whether it is well."""

    name = Attribute("What the log and the metrics call it: a str, such as ``http``.")

    def check(endpoint: Any) -> Any:
        """
        Ask once. Returns a Deferred that fires with None when the endpoint is well, and fails
        with :class:`meshproxy.errors.CheckFailed`, whose text says why, when it is not.

        Whoever asks cancels the Deferred when it takes too long; everything that the check
        opened is closed then.
        """
