"""The public interfaces."""

from __future__ import annotations

import inspect

import pytest
from zope.interface.exceptions import Invalid
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyClass, verifyObject

from meshproxy import interfaces
from meshproxy.interfaces import IBalancer, IHashBalancer
from meshproxy.upstream.balancer import BALANCERS
from meshproxy.upstream.tables import TABLES
from tests.upstream.made import endpoints


def test_everything_public_is_a_documented_interface() -> None:
    """What the module exports are interfaces, and each and its methods say what they mean."""
    for name in interfaces.__all__:
        interface = getattr(interfaces, name)
        assert isinstance(interface, InterfaceClass)
        assert inspect.getdoc(interface)
        assert all(interface[member].getDoc() for member in interface)


def test_the_balancers_are_balancers() -> None:
    """Every balancer that a configuration can name provides IBalancer."""
    held = endpoints(1)
    for balancer in BALANCERS.values():
        made = balancer(held, None)
        assert verifyObject(IBalancer, made)
        assert made.pick() is held[0]


def test_the_hash_balancers_are_hash_balancers() -> None:
    """Every hash balancer that a configuration can name provides IHashBalancer."""
    held = endpoints(1)
    for table in TABLES.values():
        made = table(held, True)
        assert verifyObject(IHashBalancer, made)
        assert made.pick_by(7) is held[0]
        held[0].usable = False
        assert made.pick_by(7) is None
        held[0].usable = True


def test_a_class_without_pick_is_no_balancer() -> None:
    """The verification that the test above rests on can fail."""

    class Nothing:
        pass

    with pytest.raises(Invalid):
        verifyClass(IBalancer, Nothing)
