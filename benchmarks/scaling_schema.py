"""The form of the benchmark's JSON: what a reader of a file may rely on. What the figures mean is told elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Mode = Literal["strong", "weak"]
Share = Field(ge=0, le=1)


class Strict(BaseModel):
    """Nothing more than is named, and no figure that JSON does not have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class Between(Strict):
    """A figure with its interval."""

    value: float
    low: float
    high: float
    coverage: float = Share


class MeasuredPoint(Strict):
    """One step with one number of workers."""

    step: Literal["acquire", "align", "sequences", "train"]
    mode: Mode
    workers: int = Field(ge=1)
    work: float = Field(gt=0)
    unit: str
    seconds: list[float] = Field(min_length=1)
    oversubscribed: bool
    split: dict[Literal["compute", "communication", "data_wait", "idle"], float]
    """Shares that add up to 1."""
    start_s: float
    median_s: Between
    speed_up: Between
    efficiency: Between
    details: dict[str, Any]


class LawFitted(Strict):
    """A law and how far it was measured."""

    law: Literal["Amdahl", "Gustafson", "USL"]
    step: str
    mode: Mode
    parameters: dict[str, Between]
    one_worker_s: float
    workers: list[int]
    lack_of_fit: float | None
    words: str


class LawLeftOut(Strict):
    """A law that was not fitted, and why."""

    law: Literal["Amdahl", "Gustafson", "USL"]
    step: str
    mode: Mode
    reason: str


class Projected(Strict):
    """What the model says of one number of workers."""

    projection: Literal[True]
    step: str
    mode: Mode
    workers: int
    work: float
    seconds: float
    low_s: float
    high_s: float
    speed_up: float
    efficiency: float
    lost: int


class Projection(Strict):
    """All that was not measured."""

    projection: Literal[True]
    assumptions: list[str] = Field(min_length=1)
    rows: list[Projected]
    left_out: list[str]


class Validated(Strict):
    """The model beside one measured point."""

    step: str
    mode: Mode
    workers: int
    measured_s: float
    measured_low_s: float
    measured_high_s: float
    model_s: float
    model_low_s: float
    model_high_s: float
    agrees: bool
    calibrated_on: bool
    oversubscribed: bool


class Compared(Strict):
    """One point in two runs."""

    step: str
    mode: Mode
    workers: int
    work: float
    unit: str
    ratio: float
    low: float
    high: float
    coverage: float = Share
    verdict: Literal["slower beyond doubt", "faster beyond doubt", "not told apart"]
    reason: str


class Comparison(Strict):
    """This run against an earlier one."""

    against: dict[str, Any]
    rows: list[Compared]
    differences: list[str]
    words: str


class Details(Strict):
    """``details`` of the JSON object."""

    cluster: str
    backend: str
    launcher: str
    cores: int = Field(ge=1)
    hosts: list[str]
    load_average: dict[Literal["before", "after", "cores"], float]
    words: list[str] = Field(min_length=1)
    intervals: str
    environment: dict[str, Any]
    pieces: dict[str, int]
    """For each worker, by step; of training the steps of an epoch."""
    point_s: float | None
    """Time that the repeats of a point were given."""
    missing: list[str]
    """Points that a run that was ended has not measured."""
    points: list[MeasuredPoint]
    fits: list[LawFitted]
    not_fitted: list[LawLeftOut]
    validation: list[Validated]
    projection: Projection
    comparison: Comparison | None
