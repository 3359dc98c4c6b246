"""The `waypost` command."""
