"""`waypost dev`: NATS and every service on one machine, as separate processes, as they will be pods."""
