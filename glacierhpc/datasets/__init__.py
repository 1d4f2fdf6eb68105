"""Index tables, splits and batches that learning draws from; models and training loops live elsewhere."""
