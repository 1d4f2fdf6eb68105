"""Glacier outlines and the masks made from them."""
