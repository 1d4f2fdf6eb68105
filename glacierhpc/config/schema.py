"""The sections and fields of a configuration, with their defaults and what they mean.

Those of what is learnt are in `learning`. Reading files, line numbers and overrides live in `loader`; rules that
join several fields live in `checks`.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from glacierhpc.config.learning import Evaluate, Flow, Model, Predict, Sequences, Split, Sweep, Train
from glacierhpc.config.section import OPERATIONAL, Section
from glacierhpc.errors import InputError

Band = Literal[
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "cirrus",
    "swir16", "swir22", "lwir", "lwir11", "lwir12", "pan",
]  # fmt: skip
"""Common names of bands; the tables of `scenes` map each archive's own names to them."""

INDEX_BANDS: dict[str, tuple[str, ...]] = {
    "ndsi": ("green", "swir16"),
    "ndwi": ("green", "nir08"),
    "ndvi": ("red", "nir08"),
    "albedo": ("blue", "red", "nir08", "swir16", "swir22"),
}
"""The bands each index is made of; ``nir`` may stand for ``nir08``."""

Index = Literal["ndsi", "ndwi", "ndvi", "albedo", Band]
"""What a composite shows: an index, or the reflectance of one band under its common name."""

Mask = Literal["cloud", "dilated_cloud", "cloud_shadow", "cirrus", "snow", "water", "saturated"]


class Area(Section):
    """Where: the box that is worked on, and the grid laid over it."""

    bbox_lonlat: tuple[float, float, float, float] = Field(
        description="[west, south, east, north] in degrees of longitude and latitude (WGS 84)"
    )
    resolution_m: float = Field(30.0, gt=0, le=10_000, description="pixel size of the cube, metres")
    crs: str = Field(
        "auto",
        description="projected CRS in metres, such as EPSG:32643; auto = the UTM zone of the area's centre",
    )
    outlines: Path | None = Field(
        None,
        description="glacier outlines (GeoPackage, shapefile); outside them is stable ground; null = none",
    )
    allow_distortion: bool = Field(
        False, description="accept a CRS whose scale at the area is off by more than 1 percent"
    )


class Period(Section):
    """When: the days whose scenes are used."""

    start: date = Field(description="first day, year-month-day (UTC)")
    end: date = Field(description="last day, included")
    months: tuple[int, ...] = Field(
        tuple(range(1, 13)), min_length=1, description="months of the year to use, 1 to 12"
    )


class Archive(Section):
    """From where: the STAC catalogue and which of its scenes."""

    catalogue: str = Field(
        min_length=1, description="address of a STAC API, or a folder or catalog.json of a static catalogue"
    )
    collections: tuple[str, ...] = Field(min_length=1, description="ids of the collections to search")
    max_cloud_cover_percent: float | None = Field(
        60.0,
        ge=0,
        le=100,
        description="whole-scene cloud cover above which a scene is left out; null = keep all",
    )
    platforms: tuple[str, ...] = Field((), description="platforms to use, such as landsat-8; [] = all")
    include: tuple[str, ...] = Field(
        (), description="scene ids to use, no others, whatever their clouds; * stands for any; [] = all"
    )
    exclude: tuple[str, ...] = Field((), description="scene ids to leave out; * stands for any")
    signing: str = Field(
        "auto",
        description="how addresses are signed: auto, none, planetary-computer, the URL of a token endpoint, or "
        "bearer:HOST,HOST for hosts that shall be sent the token in EARTHDATA_TOKEN",
        json_schema_extra=OPERATIONAL,
    )
    timeout_s: float = Field(
        60.0, gt=0, description="longest wait for one answer, seconds", json_schema_extra=OPERATIONAL
    )
    max_connections: int | None = Field(
        None,
        gt=0,
        description="requests to one host at a time, of all workers together; null = one per read thread, and "
        "8 more in each process for windows of many pieces",
        json_schema_extra=OPERATIONAL,
    )
    requests_per_s: float | None = Field(
        None,
        gt=0,
        description="requests to one host in a second, of all workers together; null = no limit",
        json_schema_extra=OPERATIONAL,
    )
    max_scenes: int | None = Field(None, gt=0, description="use at most so many scenes; null = all")


class Input(Section):
    """Images made elsewhere, in place of area, period and archive."""

    cube: Path | None = Field(
        None,
        description="Zarr cube of images with (time, band, y, x), used as the composites; null = make them from scenes",
    )
    value_range: tuple[float, float] | None = Field(
        None, description="[least, greatest] value there can be; null = the attribute valid_range of the cube"
    )
    threshold: float | None = Field(
        None,
        description="value above which a pixel counts as covered, for the overlap score; null = no such score",
    )
    units: str | None = Field(None, description="units of the values; null = the attribute units of the cube")
    shows: str | None = Field(
        None, description="what the values are, in words; null = the attribute shows of the cube"
    )


class Acquire(Section):
    """Reading the scenes into one cube."""

    bands: tuple[Band, ...] = Field(
        ("green", "red", "nir08", "swir16"), min_length=1, description="bands to read, by common name"
    )
    loader: Literal["odc", "stackstac"] = Field(
        "odc", description="library that reads: odc or stackstac", json_schema_extra=OPERATIONAL
    )
    read_threads: int = Field(
        16,
        gt=0,
        le=256,
        description="scenes and bands read at once; reading waits for the network, so more than there are cores",
        json_schema_extra=OPERATIONAL,
    )
    min_valid_share: float = Field(
        0.3, ge=0, le=1, description="share of the area with data under which a scene is dropped"
    )
    max_attempts: int = Field(
        5,
        gt=0,
        le=100,
        description="tries per read before a scene is given up",
        json_schema_extra=OPERATIONAL,
    )
    deadline_s: float = Field(
        900.0,
        gt=0,
        description="longest time for one file, all its tries and waits together, seconds",
        json_schema_extra=OPERATIONAL,
    )
    backoff_s: float = Field(
        0.5,
        ge=0,
        description="wait before the second try, seconds; doubles after each, with jitter",
        json_schema_extra=OPERATIONAL,
    )
    tolerate_failed_scenes: int = Field(
        0, ge=0, description="go on although so many scenes could not be read", json_schema_extra=OPERATIONAL
    )


class Clean(Section):
    """Masking what is not ground, and filling small holes."""

    mask: tuple[Mask, ...] = Field(
        ("cloud", "dilated_cloud", "cloud_shadow", "cirrus", "saturated"), description="quality flags to mask"
    )
    fill_passes: int | None = Field(
        2,
        ge=0,
        description="passes of gap filling, up to two pixels each from the rim inwards; 0 = none, null = until full",
    )
    min_clear_share: float = Field(
        0.2, ge=0, le=1, description="share of the area left clear under which a scene is dropped"
    )


class Align(Section):
    """Co-registration of all scenes together."""

    motion: Literal["translation", "euclidean", "similarity", "affine", "homography", "auto"] = Field(
        "translation",
        description="translation, euclidean, similarity, affine, homography, or auto: the simplest that fits",
    )
    band: Band = Field("nir08", description="band the alignment looks at; one of acquire.bands")
    image: Literal["band", "gradient", "ndsi", "ndwi", "ndvi"] = Field(
        "band",
        description="what is compared: band; its gradient, where bright and dark change with the season; or an index",
    )
    max_shift_px: float = Field(16.0, gt=0, description="largest accepted shift, pixels")
    min_correlation: float = Field(
        0.2, ge=0, le=1, description="correlation with its reference under which a link is not made"
    )
    kernel: Literal["linear", "cubic", "lanczos", "none"] = Field(
        "cubic",
        description="resampling kernel: linear, cubic, lanczos; none moves whole pixels and tells the rest",
    )
    stable_ground: bool = Field(
        True, description="look only at ground outside area.outlines, where outlines are given"
    )


class Composite(Section):
    """One image of an index per window of months."""

    index: Index = Field(
        "ndsi", description="ndsi, ndwi, ndvi, albedo, or one of acquire.bands for its reflectance"
    )
    window_months: Literal[1, 2, 3, 4, 6, 12] = Field(
        3, description="length of a window, months; counted from January: 1, 2, 3, 4, 6 or 12"
    )
    statistic: Literal["mean", "median"] = Field("median", description="mean or median over the looks")
    min_looks: int = Field(1, gt=0, description="looks under which a pixel of a window counts as empty")
    threshold: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="value under which a pixel becomes 0, the others keep theirs; null = keep all",
    )
    use_filled: bool = Field(
        False, description="also use pixels made up by gap filling, where a window has measured ones too"
    )


class Cluster(Section):
    """Where the work runs."""

    kind: Literal["local", "serial", "jobqueue", "allocation"] = Field(
        "local",
        description="local (processes on this machine), serial (none), jobqueue (each worker is a job), allocation "
        "(srun within this job)",
        json_schema_extra=OPERATIONAL,
    )
    workers: int = Field(2, gt=0, description="worker processes", json_schema_extra=OPERATIONAL)
    threads_per_worker: int = Field(1, gt=0, description="threads per worker", json_schema_extra=OPERATIONAL)
    memory_gb: float | None = Field(
        None,
        gt=0,
        description="memory of each worker, GiB; null = a fair share, 2 for each core where workers are jobs",
        json_schema_extra=OPERATIONAL,
    )
    site: str = Field(
        "generic",
        description="computing centre of jobqueue and allocation: a profile or YAML file",
        json_schema_extra=OPERATIONAL,
    )
    scheduler: Literal["slurm", "pbs", "lsf", "sge", "htcondor"] = Field(
        "slurm", description="batch system of jobqueue; tried on Slurm only", json_schema_extra=OPERATIONAL
    )
    hours: float = Field(2.0, gt=0, description="walltime of a worker's job", json_schema_extra=OPERATIONAL)
    image: str | None = Field(
        None,
        description="image that such workers run in; null = that of the site, or none",
        json_schema_extra=OPERATIONAL,
    )
    options: dict[str, str] = Field(
        {},
        description="further options of the batch system for workers, such as {qos: short}",
        json_schema_extra=OPERATIONAL,
    )
    insecure: bool = Field(
        False,
        description="no TLS: everybody on the network can then run programs as you",
        json_schema_extra=OPERATIONAL,
    )


class Source(NamedTuple):
    """What a search for scenes needs."""

    area: Area
    period: Period
    archive: Archive


class Config(Section):
    """One run: an area, a period, a task, and how each step is done."""

    task: Literal["forecast"] = Field("forecast", description="what is made: forecast")
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the run: letters, digits, dot, dash, underscore",
        json_schema_extra=OPERATIONAL,
    )
    run_dir: Path | None = Field(
        None, description="folder of the run; null = runs/<name> where the command is given",
        json_schema_extra=OPERATIONAL,
    )  # fmt: skip
    allow_another_image: bool = Field(
        False, description="go on with a run in another container image than its earlier steps were done in",
        json_schema_extra=OPERATIONAL,
    )  # fmt: skip
    area: Area | None = None
    period: Period | None = None
    archive: Archive | None = None
    input: Input = Input()
    acquire: Acquire = Acquire()
    clean: Clean = Clean()
    align: Align = Align()
    composite: Composite = Composite()
    sequences: Sequences = Sequences()
    split: Split = Split()
    model: Model = Model()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    predict: Predict = Predict()
    flow: Flow = Flow()
    cluster: Cluster = Cluster()
    sweep: Sweep = Field(Sweep(), json_schema_extra=OPERATIONAL)

    @property
    def run_path(self) -> Path:
        """Folder of the run."""
        return self.run_dir if self.run_dir is not None else Path("runs") / self.name

    @property
    def source(self) -> Source:
        """Where and when the scenes are looked for.

        Raises
        ------
        InputError
            If the run has a cube made elsewhere, and none is looked for.
        """
        if self.area is None or self.period is None or self.archive is None:
            raise InputError(
                "this configuration names no scenes: give the sections area, period and archive, or begin with the "
                "step composite, which reads input.cube"
            )
        return Source(self.area, self.period, self.archive)
