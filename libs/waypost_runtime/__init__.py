"""The process shell that every service shares: settings, logs, health, metrics, signals. It knows nothing of mail."""
