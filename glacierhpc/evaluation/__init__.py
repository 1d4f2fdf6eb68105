"""Scores with intervals, comparison with baselines, and forecasts of full scenes; training is done elsewhere."""
