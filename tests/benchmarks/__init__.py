"""Benchmarks: meshproxy beside Envoy, HAProxy and nginx, doing the same work in the same minutes.

The laws that every figure printed here keeps:

* **Ratios, not microseconds.**  Every proxy is measured in every round, the order is reversed
  every other round, and a ratio is the median of the ratios *within* rounds; absolute figures
  drift with the machine, ratios much less.
* **CPU time, not wall time.**  The cost of a unit of work is the time the proxy's own processes
  and threads spent on a CPU (user and kernel) divided by the units that the load generator got
  done.
* **The same features on.**  A feature that meshproxy is measured with (routes, access log to a
  file, statistics, request id, forwarded headers, timeouts, limits) is on in its peers too, each
  set up as its own good configuration would; what meshproxy does beyond that is meshproxy's own
  cost.
* **Separate cores.**  The proxy under test has one core; backend and load generator have the
  others.
* **The same handshake.**  Where there is TLS, the clients offer one version, one cipher and one
  group, and each proxy is seen to agree to it; certificate and key are the same, tickets are on.
* **Nothing is left behind.**  Whatever is started is ended, also on an error and on Ctrl-C;
  traffic goes to 127.0.0.1 only.

Run ``python -m tests.benchmarks http`` (or ``tcp``, ``connections``, ``idle``, ``tls``, ``all``).
"""
