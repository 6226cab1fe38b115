"""Sources of endpoints that are not written down as addresses: DNS names, and a file.

Laws:
- What was known last stays in use while a source fails; only its own good word takes an endpoint
  away.
- ``stop`` leaves nothing behind: no timer, no socket, and no call that comes later.
"""
