"""HTTP: status, queue administration, inbox."""
