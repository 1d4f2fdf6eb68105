"""Every metric of every method as tables: over all leads with its interval, and by lead."""

from __future__ import annotations

import math

import numpy as np

from glacierhpc.report.blocks import Block, number, table, words
from glacierhpc.report.run_files import RunFiles, shows
from glacierhpc.report.skill_scores import Score, read_score, spoken

METRICS = ("mse", "rmse", "mae", "ssim", "psnr", "nse", "iou")
LESS_IS_BETTER = ("mse", "rmse", "mae")
_METRIC_WORDS = {
    "mse": "mse ↓",
    "rmse": "rmse ↓",
    "mae": "mae ↓",
    "ssim": "ssim ↑",
    "psnr": "psnr, dB ↑",
    "nse": "nse ↑",
}


def all_metrics(run: RunFiles) -> list[Block]:
    """List every metric of every method."""
    metrics = run.json("metrics.json", keys=("models", "skill"))
    with run.understanding("metrics.json"):
        models = metrics["models"]
        rows = [
            [
                _metric_words(run, metric),
                *(_cell(read_score(each[metric]) if metric in each else None) for each in models.values()),
            ]
            for metric in METRICS
            if any(metric in each for each in models.values())
        ]
    test = metrics.get("split", "test")
    count = words(metrics.get("n_sequences"))
    caption = f"Every metric over all leads on the {test} split ({count} sequences); below each its interval."
    return [table(caption, ["metric", *(spoken(name) for name in models)], rows)]


def every_lead(run: RunFiles) -> list[Block]:
    """List every metric of every method at every lead; the best of each lead is marked."""
    metrics = run.json("metrics.json", keys=("models",))
    rows = []
    count = 0
    with run.understanding("metrics.json"):
        models = metrics["models"]
        for metric in METRICS:
            scores = {name: read_score(each[metric]) for name, each in models.items() if metric in each}
            if not scores:
                continue
            values = np.array([score.by_lead for score in scores.values()])
            count = values.shape[1]
            best = _best_of(values, less=metric in LESS_IS_BETTER)
            for name, given, marks in zip(scores, values, best, strict=True):
                cells = [
                    number(value) + (" *" if mark else "") for value, mark in zip(given, marks, strict=True)
                ]
                rows.append([_metric_words(run, metric), spoken(name), *cells])
    if count < 2:
        return []
    caption = "Every metric at every lead; * is the best of its lead."
    return [table(caption, ["metric", "method", *(f"lead {lead + 1}" for lead in range(count))], rows)]


def _best_of(values: np.ndarray, *, less: bool) -> np.ndarray:
    """Return where each column of (methods, leads) has its best value; nowhere in a column without any."""
    signed_values = np.where(np.isfinite(values), values if less else -values, np.inf)
    return (signed_values == signed_values.min(axis=0)) & np.isfinite(signed_values)


def _metric_words(run: RunFiles, metric: str) -> str:
    """Return a metric's heading; the overlap is that of what the index shows."""
    if metric != "iou":
        return _METRIC_WORDS.get(metric, metric)
    covered = shows(run).split(",")[0].split(" (")[0].removesuffix(" cover")
    return f"iou of {covered} ↑"


def _cell(score: Score | None) -> str:
    if score is None:
        return "–"
    low, high = score.interval
    return (
        f"{number(score.all)}\n{number(low)} to {number(high)}" if math.isfinite(low) else number(score.all)
    )
