"""Bytes of remote files: asked for politely, checked when they come, handed to GDAL; knows no scene and no band."""
