"""
Numbers and records: what the proxy counted, and a line for each thing it did.

The laws of the room: nothing here imports the reactor, a clock is always passed in; the path of a
byte pays for list items and one formatted line, never for the reading of either.
"""
