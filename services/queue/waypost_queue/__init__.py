"""The durable queue on JetStream, and the data that every service speaks."""
