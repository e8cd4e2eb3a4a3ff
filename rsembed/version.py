"""The package's version; not part of any fingerprint."""

__version__ = "0.1.0"
