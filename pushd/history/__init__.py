"""The record of what was appended: one file a backend, behind one interface."""
