"""The sections of what is learnt from the composites: sequences, models, training, judgement, repeats.

Those of the images before them are in `schema`; rules that join several fields in `learning_checks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from glacierhpc.config.section import OPERATIONAL, Section

MODELS = (
    "convlstm", "lstm", "attention_lstm", "unet", "simvp",
    "paper_lstm", "paper_attention_lstm", "paper_convlstm", "paper_unet",
)  # fmt: skip
"""Models that can be trained by name; a dotted path to a class of one's own is accepted too."""


class Sequences(Section):
    """Cutting the composites into training sequences."""

    size_px: int = Field(64, ge=8, le=1024, description="side of a patch, pixels")
    stride_px: int = Field(32, gt=0, description="distance from one patch to the next, pixels")
    steps_in: int = Field(4, gt=0, description="windows the model sees")
    steps_out: int = Field(4, gt=0, description="windows the model forecasts")
    min_valid_share: float = Field(
        0.5, ge=0, le=1, description="share of valid pixels under which a sequence is not used"
    )
    materialise: bool = Field(
        False,
        description="write the patches to sequences.zarr instead of cutting them from the cube while training",
    )


class Split(Section):
    """Which sequences train, validate and test."""

    method: Literal["time", "block"] = Field(
        "time", description="time (the latest windows test) or block (of ground)"
    )
    validation_share: float = Field(0.15, gt=0, lt=1, description="share that validates")
    test_share: float = Field(0.2, gt=0, lt=1, description="share that tests")
    gap_steps: int | None = Field(
        None,
        ge=0,
        description="windows left out between the parts; null = as many as keep the parts free of leakage",
    )


class Model(Section):
    """The forecast model; the baselines are scored beside it in any case."""

    name: str = Field(
        "convlstm",
        description="convlstm, lstm, attention_lstm, unet, simvp; as published: paper_lstm, paper_attention_lstm, "
        "paper_convlstm, paper_unet; or a dotted path to a class of your own",
    )
    parameters: dict[str, Any] = Field({}, description="keyword arguments of the model")
    weights: Path | None = Field(
        None,
        description="folder with the weights of another run (runs/OTHER/model), used as they are: nothing is trained; "
        "null = train",
    )


class Train(Section):
    """Training."""

    epochs: int = Field(30, gt=0, description="passes over the training sequences, at most")
    batch_size: int = Field(16, gt=0, description="sequences per step, of all processes together")
    learning_rate: float = Field(1e-3, gt=0, description="step size of the optimiser")
    weight_decay: float = Field(1e-4, ge=0, description="weight decay of the optimiser")
    optimizer: Literal["adamw", "adam", "sgd"] = Field("adamw", description="adamw, adam or sgd")
    loss: Literal["mse", "mae", "huber", "ssim_mse", "gradient_difference"] = Field(
        "mse", description="masked loss: mse, mae, huber, ssim_mse or gradient_difference"
    )
    gradient_clip: float | None = Field(
        1.0, gt=0, description="largest norm of a gradient; null = no clipping"
    )
    patience: int | None = Field(
        8, gt=0, description="epochs without improvement before training ends; null = never early"
    )
    seed: int = Field(0, ge=0, description="seed of weights and shuffling")
    schedule: Literal["constant", "cosine", "plateau"] = Field(
        "constant",
        description="learning rate over the epochs: constant, cosine (to 0) or plateau (falls when stuck)",
    )
    warmup_epochs: float = Field(
        0.0, ge=0, description="epochs over which the learning rate rises from 0, may be a fraction"
    )
    teacher_forcing: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of steps at which a model that feeds on its own forecasts is given the truth, at the start",
    )
    teacher_decay: Literal["none", "linear", "sigmoid"] = Field(
        "linear", description="how that share falls to 0 over the epochs: none (it stays), linear or sigmoid"
    )
    start_from: Path | None = Field(
        None,
        description="folder with weights of another run to start from (runs/OTHER/model); null = drawn by seed",
    )
    freeze: tuple[str, ...] = Field(
        (),
        description="patterns of parameters that stay as start_from has them, such as encoder.*; [] = none",
    )
    also: tuple[Path, ...] = Field(
        (),
        description="folders of other runs whose training sequences are learnt from too; this run's own still "
        "validate and test; [] = none",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="numbers of the forward pass: fp32, bf16, or fp16 (needs a GPU)"
    )
    accumulate: int = Field(
        1,
        gt=0,
        description="parts a process works through one after another per step",
        json_schema_extra=OPERATIONAL,
    )
    channels_last: bool = Field(
        False, description="lay images out as GPUs prefer for convolutions", json_schema_extra=OPERATIONAL
    )
    compile: bool = Field(
        False,
        description="compile the model (torch.compile): starts slowly, then faster",
        json_schema_extra=OPERATIONAL,
    )
    deterministic: bool = Field(
        False,
        description="only operations that give the same bits each time; slower",
        json_schema_extra=OPERATIONAL,
    )
    workers: int = Field(
        0, ge=0, description="processes that read batches ahead; 0 = none", json_schema_extra=OPERATIONAL
    )
    checkpoint_steps: int | None = Field(
        None,
        gt=0,
        description="write a checkpoint after so many steps, too; null = after each epoch only",
        json_schema_extra=OPERATIONAL,
    )
    backend: Literal["single", "ddp", "horovod"] = Field(
        "single",
        description="single: one process; ddp (torchrun, srun) or horovod (horovodrun, mpirun): several",
        json_schema_extra=OPERATIONAL,
    )
    watchdog_s: float = Field(
        900.0,
        ge=0,
        description="end the training with exit code 70 when nothing has moved for so many seconds; 0 = never",
        json_schema_extra=OPERATIONAL,
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop",
        description="a step whose loss or gradient is not finite: stop the training, or skip the step and count it",
    )
    compression: Literal["none", "fp16"] = Field("none", description="of exchanged gradients; horovod only")
    backward_passes_per_step: int = Field(
        1, gt=0, description="gradients added up before they are exchanged; horovod only"
    )
    adasum: bool = Field(False, description="combine gradients by Adasum instead of their mean; horovod only")
    trackers: tuple[Literal["csv", "tensorboard", "wandb"], ...] = Field(
        ("csv",),
        description="where the losses are written: csv, tensorboard, wandb (offline unless WANDB_MODE=online)",
        json_schema_extra=OPERATIONAL,
    )


class Evaluate(Section):
    """Skill on the test sequences."""

    bootstrap_samples: int = Field(1000, ge=10, description="draws of the block bootstrap")
    confidence: float = Field(0.95, gt=0, lt=1, description="confidence of the intervals")
    block_px: int | None = Field(
        None,
        gt=0,
        description="side of the bootstrap's blocks of ground, pixels, which are then drawn for every interval beside "
        "windows of time; null = for a second interval of the skill only, twice sequences.size_px",
    )
    outlines: Path | None = Field(
        None, description="glacier outlines for the scores of each glacier; null = area.outlines"
    )
    control: bool = Field(
        True, description="also score the model on inputs of other dates, which must destroy its skill"
    )


class Predict(Section):
    """Forecast of whole scenes by blended tiles."""

    overlap_px: int | None = Field(
        None, ge=0, description="overlap of neighbouring tiles; null = half a tile"
    )


class Flow(Section):
    """Apparent motion of targets and forecasts."""

    window_px: int = Field(15, ge=5, description="averaging window of the flow, pixels")


class Sweep(Section):
    """Variations and repeats, each trained and scored on the sequences of this run (glacierhpc sweep)."""

    variations: tuple[dict[str, Any], ...] = Field(
        (),
        description="what each changes, such as [{train.learning_rate: 0.01}, {model.name: unet}]; [] = nothing",
    )
    seeds: tuple[int, ...] = Field((), description="seeds each is repeated with; [] = train.seed")
