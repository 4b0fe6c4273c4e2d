"""A PostHog-compatible capture edge: accept, spool, ship."""

__version__ = "0.1.0"
