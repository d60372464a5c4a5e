"""A Redis server: where it is, a connection to it, and one that is kept."""
