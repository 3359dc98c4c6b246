"""The queue service: streams, sweeps, statistics, and every action on queued mail."""
