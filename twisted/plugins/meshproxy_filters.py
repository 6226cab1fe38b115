"""
The filters that meshproxy brings along, as plugins.

The law it keeps: one dropin for each optional dependency; this one is for filters that need none.
A user's own filters live in a ``twisted/plugins/*.py`` of their own, anywhere on ``sys.path``.
"""
