"""pushd turns polled HTTP APIs into pushed streams."""

__version__ = "0.1.0"
