"""How fast the engine trains and forecasts: each model, beside a plain PyTorch loop written by hand for the same model.

Run it on an idle machine, on its GPU where it has one::

    python benchmarks/train.py
    python benchmarks/train.py --precision bf16 --compile --models convlstm,simvp

Both train a copy of the same model on the same batches in the same order, with the same optimiser, loss, clipping and
number format; they take turns. The peak of the device is that of a large matrix product in the same format.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from harness import Result, Row, arguments, report
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from glacierhpc.datasets.climatology import Climatology
from glacierhpc.datasets.samples import SequenceDataset
from glacierhpc.datasets.sequences import SequencePlan
from glacierhpc.evaluation.predict import NetworkForecaster
from glacierhpc.models import MODELS, accepted, build_model
from glacierhpc.training.batches import epoch_batches
from glacierhpc.training.distributed import Single
from glacierhpc.training.loop import fit
from glacierhpc.training.precision import PRECISIONS, compiled, use_channels_last

PLAIN = "plain PyTorch loop"
LARGE = ("paper_lstm", "paper_attention_lstm")
"""Left out unless asked for: 1 GB of weights at 50 px."""
STEPS_IN, STEPS_OUT = 4, 4
RATE, DECAY, CLIP = 1e-4, 1e-4, 1.0


@dataclass(frozen=True)
class Setting:
    """What both sides do alike."""

    size: int
    batch: int
    steps: int
    device: torch.device
    precision: str
    channels_last: bool
    compile: bool
    workers: int

    def autocast(self) -> Any:
        mixed = self.precision != "fp32"
        return torch.autocast(self.device.type, dtype=PRECISIONS[self.precision], enabled=mixed)


def sequences(setting: Setting) -> SequenceDataset:
    """Return as many random sequences as the steps take, with gaps and a climatology."""
    rng = np.random.default_rng(0)
    count, side = 16, setting.size + 24
    data = rng.uniform(-1, 1, (count, 1, side, side)).astype(np.float32)
    valid = rng.random((count, side, side)) < 0.9
    times = np.datetime64("2015-02-15", "ns") + np.arange(count) * np.timedelta64(91, "D")
    plan = SequencePlan.build(
        valid.shape, times, size=setting.size, stride=1, steps_in=STEPS_IN, steps_out=STEPS_OUT
    )
    chosen = rng.choice(
        len(plan), setting.batch * setting.steps, replace=len(plan) < setting.batch * setting.steps
    )
    usual = Climatology.build(data, valid, times, np.arange(count), causal=True)
    return SequenceDataset.from_cube(data, valid, plan, chosen, climatology=usual)


def model_of(name: str, setting: Setting) -> nn.Module:
    """Return a new model on the device."""
    given = {
        "bands": 1,
        "steps_in": STEPS_IN,
        "steps_out": STEPS_OUT,
        "size": setting.size,
        "value_range": (-1.0, 1.0),
    }
    model = build_model(name, **{key: value for key, value in given.items() if key in accepted(name)})
    if setting.channels_last:
        use_channels_last(model)
    return model.to(setting.device)


def by_engine(
    model: nn.Module, data: SequenceDataset, setting: Setting, told: list[dict[str, float]]
) -> None:
    """Train for one epoch as `fit` does it; the row of its history is appended to `told`."""
    history = fit(
        model,
        data,
        backend=Single(setting.device.type),
        epochs=1,
        batch_size=setting.batch,
        learning_rate=RATE,
        weight_decay=DECAY,
        gradient_clip=CLIP,
        precision=setting.precision,
        channels_last=setting.channels_last,
        compile=False,  # compiled around all turns, for both sides
        workers=setting.workers,
    )
    told.append(history.rows[0])


def by_hand(model: nn.Module, data: SequenceDataset, setting: Setting) -> float:
    """Train for one epoch as one writes it without an engine: no masks of ranks, no checkpoints, no figures."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.precision == "fp16")
    total = torch.zeros((), device=setting.device)
    model.train()
    loader: DataLoader[Any] = DataLoader(
        data,
        batch_sampler=epoch_batches(len(data), batch_size=setting.batch, seed=0, epoch=0),
        num_workers=setting.workers,
        pin_memory=setting.device.type == "cuda",
        collate_fn=_as_read,
    )
    for read in loader:
        batch = read.to(setting.device)
        optimizer.zero_grad()
        with setting.autocast():
            forecast = model(**batch.inputs)
        valid = batch.targets_valid.unsqueeze(2)
        error = torch.where(valid, forecast.float() - batch.targets, 0.0)
        loss = (error**2).sum() / valid.sum()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer) if scaler.is_enabled() else None
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        scaler.step(optimizer)
        scaler.update()
        total += loss.detach()
    return float(total)


def _as_read(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class Times:
    """How long a run took in each turn, seconds."""

    wall: list[float]
    processor: list[float]
    """Of all threads of this process: on a CPU, what others do on the machine does not count."""


def turns(runs: dict[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, Times]:
    """Measure every run, one of each per turn, the first changing from turn to turn."""
    times = {name: Times([], []) for name in runs}
    for turn in range(repeats + 1):
        for name in sorted(runs, reverse=turn % 2 == 1):
            started, worked = time.perf_counter(), time.process_time()
            runs[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:  # the first one warms up
                times[name].wall.append(time.perf_counter() - started)
                times[name].processor.append(time.process_time() - worked)
    return times


def spread(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return how many times faster ours was in the turns: least, median, most."""
    ratios = sorted(plain / engine for engine, plain in zip(ours, theirs))
    return {"least": ratios[0], "median": statistics.median(ratios), "most": ratios[-1]}


def measure_model(name: str, setting: Setting, repeats: int, peak: float) -> tuple[list[Row], dict[str, Any]]:
    """Measure training and inference of one model."""
    data, rows = sequences(setting), list[dict[str, float]]()
    ours, theirs = model_of(name, setting), model_of(name, setting)
    batch = data.__getitems__(list(range(setting.batch)))
    flops = flops_of(theirs, batch.to(setting.device))
    with compiled(ours, setting.compile), compiled(theirs, setting.compile):
        training = turns(
            {
                "ours": lambda: by_engine(ours, data, setting, rows),
                PLAIN: lambda: by_hand(theirs, data, setting),
            },
            repeats,
            setting.device,
        )
        forecaster = NetworkForecaster(ours, device=setting.device.type)
        inference = turns(
            {"ours": lambda: forecaster(batch), PLAIN: lambda: forecast_by_hand(theirs, batch, setting)},
            max(repeats, 3),
            setting.device,
        )
    done = {"train": len(data), "forecast": setting.batch}
    rates = {
        kind: {side: done[kind] / statistics.median(times.wall) for side, times in sides.items()}
        for kind, sides in (("train", training), ("forecast", inference))
    }
    told = [
        Row(
            f"{kind} {name}",
            rate["ours"],
            PLAIN,
            rate[PLAIN],
            "sequences/s",
            more_is_better=True,
            in_readme=kind == "train",
        )
        for kind, rate in rates.items()
    ]
    engine, plain = training["ours"], training[PLAIN]
    return told, {
        "parameters": sum(p.numel() for p in ours.parameters()),
        "images_per_s": {kind: rate["ours"] * (STEPS_IN + STEPS_OUT) for kind, rate in rates.items()},
        "ratio_by_turn": spread(engine.wall, plain.wall),
        "processor_time_ratio": spread(engine.processor, plain.processor),
        "gflop_per_sequence": flops / setting.batch / 1e9,
        "share_of_peak": flops / setting.batch * rates["train"]["ours"] / peak,
        "data_wait_share": statistics.median(row["data_wait_share"] for row in rows),
        "peak_memory_mb": max(row["peak_memory_mb"] for row in rows),
    }


def forecast_by_hand(model: nn.Module, batch: Any, setting: Setting) -> np.ndarray:
    """Return a forecast as one writes it without a forecaster."""
    model.eval()
    with torch.no_grad():
        return model(**batch.to(setting.device).inputs).cpu().numpy()


def flops_of(model: nn.Module, batch: Any) -> int:
    """Return the floating-point operations of a training step: those of matrix products and convolutions."""
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(**batch.inputs).sum().backward()
    model.zero_grad()
    return counter.get_total_flops()


def peak_flops(setting: Setting, side: int) -> float:
    """Return the operations per second of a product of two large square matrices in the same format."""
    kind = PRECISIONS[setting.precision]
    left, right = (torch.randn(side, side, device=setting.device).to(kind) for _ in range(2))
    product = turns({"product": lambda: left @ right}, 5, setting.device)["product"]
    return 2 * side**3 / min(product.wall)


def measure(names: list[str], setting: Setting, repeats: int, side: int) -> Result:
    """Measure every model."""
    peak = peak_flops(setting, side)
    rows, details = list[Row](), dict[str, Any]()
    for name in names:
        told, details[name] = measure_model(name, setting, repeats, peak)
        rows += told
    device = (
        torch.cuda.get_device_name()
        if setting.device.type == "cuda"
        else f"{torch.get_num_threads()} threads"
    )
    options = [name for name in ("channels_last", "compile") if getattr(setting, name)]
    return Result(
        "train",
        f"{STEPS_IN} + {STEPS_OUT} composites of {setting.size} px, batches of {setting.batch}, {setting.steps} steps, "
        f"{', '.join([setting.precision, *options])}, {device}, torch {torch.__version__}, {repeats} repeats",
        rows,
        {"peak_tflops": peak / 1e12, "models": details},
    )


def asked_for() -> argparse.Namespace:
    """Return the arguments."""
    parser = arguments(__doc__)
    parser.add_argument("--models", help="names, with commas; all but the two largest by default")
    parser.add_argument("--size", type=int, default=50, help="edge of a patch, pixels")
    parser.add_argument("--batch", type=int, help="sequences; 16, on a GPU 128")
    parser.add_argument("--steps", type=int, help="per turn; 8, on a GPU 40")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--precision", choices=list(PRECISIONS), help="fp32, on a GPU bf16")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", type=int, default=0, help="processes that read batches for the engine")
    return parser.parse_args()


def main() -> None:
    """Measure and report."""
    asked = asked_for()
    device = torch.device(asked.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    quick = {"size": 16, "batch": 2, "steps": 2} if asked.quick else {}
    setting = Setting(
        size=quick.get("size", asked.size),
        batch=asked.batch or quick.get("batch", 128 if gpu else 16),
        steps=asked.steps or quick.get("steps", 40 if gpu else 8),
        device=device,
        precision=asked.precision or ("bf16" if gpu else "fp32"),
        channels_last=asked.channels_last,
        compile=asked.compile,
        workers=asked.workers,
    )
    names = asked.models.split(",") if asked.models else [name for name in MODELS if name not in LARGE]
    names = names[:2] if asked.quick else names
    report(measure(names, setting, asked.repeats, 64 if asked.quick else (8192 if gpu else 2048)), asked)


if __name__ == "__main__":
    main()
