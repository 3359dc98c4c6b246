"""Benchmarks: the whole product beside its peers, in one run."""
