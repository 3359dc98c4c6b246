"""Mail out: routing, transports, retries, DSNs."""
