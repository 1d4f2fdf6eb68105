"""One training engine for all tasks: loop, backends, losses, checkpoints, trackers; no models, no data."""
