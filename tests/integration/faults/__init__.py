"""
Upstreams that misbehave, and clients that must not notice.

The law of the suite: three servers answer for a cluster and one of them has a fault; every
response that a client gets is judged, status and body, and with retries on all of them are right.
``python -m tests.integration.faults`` prints what each fault costs without them.
"""
