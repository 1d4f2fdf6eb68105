"""Satellite scenes: searched, signed, read into cubes, masked, combined; nothing here trains or tracks."""
