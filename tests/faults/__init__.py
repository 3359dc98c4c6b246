"""Kill and soak tests: what a 250 promised is still true after any process died at any moment."""
