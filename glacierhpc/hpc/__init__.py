"""Schedulers, clusters and containers; no science."""
