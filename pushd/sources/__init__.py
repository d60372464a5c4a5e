"""Where document topics come from."""
