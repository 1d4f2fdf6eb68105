"""The training loop of all tasks, top to bottom; processes, losses, checkpoints and trackers are handed in.

`fit` knows of a model that it is called with ``batch.inputs``, of a dataset that it reads whole batches.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from glacierhpc import __version__
from glacierhpc.errors import InputError
from glacierhpc.training.batches import BatchedDataset, Feed
from glacierhpc.training.checkpoint import Checkpoints, Progress
from glacierhpc.training.distributed import Backend, Single
from glacierhpc.training.engine import Engine, Stopped
from glacierhpc.training.keeper import Keeper
from glacierhpc.training.meters import Meter, ProgressListener, ProgressLog, forget_peak
from glacierhpc.training.precision import Precision, compiled, use_channels_last
from glacierhpc.training.preflight import check_ranks
from glacierhpc.training.recipe import Recipe
from glacierhpc.training.seeds import deterministic_mode, mixed, own_random_state, seed_rank
from glacierhpc.training.stopping import Interrupted, StopRequest
from glacierhpc.training.trackers import Tracker
from glacierhpc.training.watch import Watch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class History:
    """What a training run gave."""

    rows: tuple[dict[str, float], ...]
    """One per epoch: epoch, train_loss, valid_loss, learning_rate, gradient_norm (mean over its steps), samples_per_s,
    data_wait_share, peak_memory_mb, seconds; teacher_share and skipped_steps where there are any."""
    best_epoch: int
    """The epoch whose weights the model now has."""
    best_loss: float


def fit(
    model: nn.Module,
    train: BatchedDataset,
    valid: BatchedDataset | None = None,
    *,
    backend: Backend | None = None,
    trackers: Sequence[Tracker] = (),
    checkpoints: Checkpoints | None = None,
    identity: Mapping[str, str] | None = None,
    configuration: Mapping[str, Any] | None = None,
    progress: ProgressListener | None = None,
    channels_last: bool = False,
    compile: bool = False,
    deterministic: bool = False,
    workers: int = 0,
    watchdog_s: float = 0.0,
    **settings: Any,
) -> History:
    """Train a model and leave it with the weights of its best epoch.

    A run that was killed goes on from its last checkpoint, also on another number of ranks; on the same number of
    CPUs its weights are then bit for bit those of a run that was not. The global random state is left as it was.

    Parameters
    ----------
    model : nn.Module
        Called as ``model(**batch.inputs)``, with ``teacher`` too if it has the attribute ``taught = True``; changed
        in place. Weights that do not require a gradient stay as they are.
    train, valid : BatchedDataset
        Without `valid` (or with an empty one) the training loss decides which epoch is best.
    backend : Backend, optional
        `Single` by default.
    checkpoints : Checkpoints, optional
        Without it nothing can be resumed, and the best weights are kept in memory.
    identity : mapping, optional
        What else the run is of, such as hashes of its data and split; a checkpoint of another identity is refused.
    configuration : mapping, optional
        Told to the trackers, beside the settings.
    progress : ProgressListener, optional
        Told of every step, on rank 0; a log line every minute by default.
    channels_last, compile : bool
        Faster for many models on GPUs; results differ in the last digits.
    deterministic : bool
        Refuse operations that may give other bits the next time.
    workers : int
        Processes that read batches ahead.
    watchdog_s : float
        End the process with code 70 when nothing has moved for so long, with the stacks of all ranks; 0: never.
    **settings
        Those of `Recipe`: loss, optimizer, epochs, batch_size, learning_rate, ...

    Raises
    ------
    InputError
        If there is nothing to train on, a setting cannot be, or the checkpoint is of another run.
    Interrupted
        If a signal asked any rank to stop; the checkpoint is written.
    GlacierError
        If the loss or its gradient is no longer finite, another rank has ended, or there is no memory left.
    """
    recipe = Recipe(**settings)
    _check(model, train, recipe)
    backend = backend or Single()
    check_ranks(backend, _facts(model, train, valid, recipe, identity or {}))
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        stack.enter_context(own_random_state(backend.device))
        stack.enter_context(deterministic_mode(deterministic))
        stack.enter_context(compiled(model, compile))
        pulse = stack.enter_context(Watch(backend, limit_s=watchdog_s, outlives=backend.elastic))
        seed_rank(recipe.seed, backend.rank)
        if channels_last:
            use_channels_last(model)
        wrapped = backend.wrap_model(model)
        stepper = recipe.make_optimizer([p for p in model.parameters() if p.requires_grad])
        stepper = backend.wrap_optimizer(stepper, wrapped)
        numbers = Precision(recipe.precision, backend.device)
        engine = Engine(model, wrapped, stepper, backend, recipe, numbers, stop, pulse)
        parts: dict[str, Any] = {"optimizer": stepper, "scaler": numbers.scaler}
        keeper = Keeper(
            model, parts, checkpoints, backend, recipe.identity(len(train), identity or {}), pulse
        )
        state = keeper.resume(seed=recipe.seed)
        pin, seed = backend.device.type == "cuda", mixed(recipe.seed, backend.rank)
        feed = stack.enter_context(closing(Feed(train, workers=workers, pin=pin, seed=seed)))
        check = (
            stack.enter_context(closing(Feed(valid, workers=workers, pin=pin, seed=seed))) if valid else None
        )
        leads = backend.rank == 0
        logs = _started(trackers if leads else (), state, stack, {**asdict(recipe), **(configuration or {})})
        listener = (progress or ProgressLog()) if leads else None
        forget_peak(backend.device)
        meter = Meter()
        try:
            while state.epoch < recipe.epochs and not _spent(state, recipe.patience):
                meter = Meter()
                for steps in engine.train_epoch(feed, state, meter):
                    if keeper.due(state.step):
                        engine.settle(state, meter)
                        keeper.save_last(state)
                        backend.let_in()
                    if listener is not None:
                        listener.update(state.step, steps, _so_far(engine, state, meter))
                row = _row(engine, state, meter)
                row["valid_loss"] = engine.mean_loss(check) if check else row["train_loss"]
                keeper.end_epoch(state, better=state.end_epoch(row))
                _tell(row, recipe.epochs)
                for tracker in logs:
                    tracker.log(row)
                backend.let_in()
        except Stopped:
            engine.settle(state, meter)
            keeper.save_last(state)
            raise _interrupted(state, stop, checkpoints) from None
        keeper.restore_best(state)
        if backend.any(bool(stop)):  # during the last epoch's end: what follows the training is not to begin
            raise _interrupted(state, stop, checkpoints)
    return History(tuple(state.rows), state.best_epoch, state.best_loss)


def _check(model: nn.Module, train: BatchedDataset, recipe: Recipe) -> None:
    if len(train) == 0:
        raise InputError(
            "no training sequences: give a longer period, a smaller gap, or lower min_valid_share"
        )
    if recipe.teacher_forcing and not getattr(model, "taught", False):
        logger.warning(
            "teacher_forcing=%r has no effect: %s does not feed its forecasts back",
            recipe.teacher_forcing,
            type(model).__name__,
        )


def _facts(
    model: nn.Module,
    train: BatchedDataset,
    valid: BatchedDataset | None,
    recipe: Recipe,
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """Return what must be alike on all ranks, by the name that a user knows it by."""
    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    return {
        "the code (glacierhpc, torch)": [__version__, str(torch.__version__)],
        "the model": [type(model).__name__, shapes],
        "the number of training sequences": len(train),
        "the number of validation sequences": len(valid) if valid else 0,
        "the settings of the training": [recipe.identity(len(train), {}), recipe.epochs, recipe.patience],
        "the data, split, model or origin": dict(identity),
    }


def _started(
    trackers: Sequence[Tracker], state: Progress, stack: ExitStack, configuration: Mapping[str, Any]
) -> Sequence[Tracker]:
    """Start the trackers, and let the stack close each."""
    for tracker in trackers:
        stack.callback(tracker.close)
        tracker.start(state.rows, configuration)
    return trackers


def _so_far(engine: Engine, state: Progress, meter: Meter) -> dict[str, float]:
    row = {"epoch": state.epoch, "epochs": engine.recipe.epochs, "loss": _mean(state)}
    return row | meter.so_far(engine.backend.device)


def _mean(state: Progress) -> float:
    """Return the mean loss of the epoch at work; NaN before its first step counts, or where all were skipped."""
    return state.total / state.count if state.count else float("nan")


def _row(engine: Engine, state: Progress, meter: Meter) -> dict[str, float]:
    """Return the row of an epoch's history, without the validation loss."""
    if state.count == 0 and not meter.skipped:
        raise InputError("no training target holds a valid pixel: loosen the masks or lower min_valid_share")
    row = {"epoch": state.epoch, "train_loss": _mean(state), "valid_loss": float("nan")}
    row |= {"learning_rate": engine.rate, **meter.row(engine.backend.device)}
    if engine.recipe.teacher_forcing:
        row["teacher_share"] = engine.shown_share(state.epoch)
    if engine.precision.scales or engine.recipe.on_nonfinite == "skip":
        row["skipped_steps"] = meter.skipped
    return row


def _tell(row: Mapping[str, float], epochs: int) -> None:
    text = "epoch %d of %d: train %.5f, valid %.5f, rate %.2g, gradient %.2g, %.1f samples/s, "
    text += "%.1f %% of the time waiting for data, at most %.0f MB"
    names = ("train_loss", "valid_loss", "learning_rate", "gradient_norm", "samples_per_s")
    values = [row[name] for name in names]
    waited, memory = 100 * row["data_wait_share"], row["peak_memory_mb"]
    logger.info(
        text,
        row["epoch"] + 1,
        epochs,
        *values,
        waited,
        memory,
        extra={"done": row["epoch"] + 1, "total": epochs},
    )
    if row.get("skipped_steps"):
        text = (
            "fp16 overflowed, or loss or gradient was not finite, in %d steps of the epoch; they were skipped"
        )
        logger.warning(text, row["skipped_steps"])


def _interrupted(state: Progress, stop: StopRequest, checkpoints: Checkpoints | None) -> Interrupted:
    place = f"epoch {state.epoch}, step {state.step}"
    by = stop.signal or "a signal to another rank"
    if checkpoints is None:
        return Interrupted(
            f"{by} stopped the training at {place}; no checkpoint is kept, so that it starts anew"
        )
    return Interrupted(
        f"{by} stopped the training at {place}; the checkpoint in {checkpoints.folder} is written, "
        "and the same command goes on from it"
    )


def _spent(state: Progress, patience: int | None) -> bool:
    return patience is not None and state.stale_epochs >= patience
