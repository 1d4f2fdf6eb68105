"""When two dates are of the same season, the same for all that compares years; no pixels here."""

from __future__ import annotations

import numpy as np

DAY = np.timedelta64(1, "D")
YEAR_DAYS = 365.2425
"""Mean year of the Gregorian calendar."""


def tolerance_days(times: np.ndarray) -> float:
    """Return half the usual distance between composites (T,) datetime64: within it two dates are the same season."""
    return float(np.median(np.diff(times) / DAY)) / 2 if len(times) > 1 else YEAR_DAYS / 8


def days_apart(times: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the distance in the year, 0 to 182.6 days, between dates; the arrays broadcast."""
    days = np.abs((times - others) / DAY) % YEAR_DAYS
    return np.minimum(days, YEAR_DAYS - days)
