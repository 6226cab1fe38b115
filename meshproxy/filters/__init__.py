"""
The built-in filters, one module each.

The law they keep: they are written as a user's would be, against :mod:`meshproxy.interfaces`,
:mod:`meshproxy.api` and :mod:`meshproxy.errors` alone; what several of them need is a module here
whose name begins with an underscore.
"""
