"""Load generators and the bulk backend: programs of their own, started pinned by the benchmark."""
