"""Compiled array functions: arrays in, arrays out, no files, no options objects, one thread each.

They release the GIL, so that many of them run side by side; nothing here starts a thread or reads a scene.
"""
