"""Glacier products from public satellite archives, on batch clusters."""

__version__ = "0.1.0"
