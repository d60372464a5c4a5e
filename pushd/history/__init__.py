"""The record of what was appended: one file a backend, all behind :class:`~pushd.interfaces.IHistory`."""
