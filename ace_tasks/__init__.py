"""Typed image-edit tasks for ACE++ and the engine that runs catalogs of them."""

__version__ = "0.1.0"
