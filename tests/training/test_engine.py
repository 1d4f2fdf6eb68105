"""Parts of a batch add up to the batch, formats and layouts change digits only, and what goes wrong is told."""

import logging
import math
from functools import partial

import pytest
import torch
from torch import nn

from glacierhpc.errors import GlacierError, InputError
from glacierhpc.models import build_model
from glacierhpc.models.weights import freeze
from glacierhpc.training import loop, meters
from glacierhpc.training.checkpoint import Checkpoints
from glacierhpc.training.distributed import Single
from glacierhpc.training.loop import fit
from glacierhpc.training.losses import ssim_mse
from glacierhpc.training.precision import Precision, compiled, use_channels_last
from tests.training.lines import (
    OPTIONS,
    DiesAfter,
    Killed,
    Line,
    LineData,
    Lines,
    losses,
    validation,
    weights,
)


class Plain(Line):
    """Draws nothing, so that parts of a batch can be compared with the whole."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Identity()


class Images:
    """Small sequences for a real forecast model."""

    def __init__(self, count=10, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.frames = torch.randn(count, 5, 1, 8, 8, generator=generator)
        self.valid = torch.rand(count, 5, 8, 8, generator=generator) < 0.8

    def __len__(self):
        return len(self.frames)

    def __getitems__(self, items):
        frames, valid = self.frames[items], self.valid[items]
        return Lines({"images": frames[:, :3], "images_valid": valid[:, :3]}, frames[:, 3:], valid[:, 3:])


SMALL = {"steps_out": 2, "hidden": (4,), "reduction": 2, "attention": 4, "head": 4}
SHORT = {"epochs": 2, "batch_size": 4, "learning_rate": 0.01, "patience": None, "backend": Single("cpu")}


def forecast_weights(**options):
    model = build_model("convlstm", **SMALL)
    history = fit(model, Images(), Images(4, seed=1), **{**SHORT, **options})
    return weights(model), history


@pytest.mark.parametrize("accumulate", [2, 3, 8])
@pytest.mark.parametrize("loss", ["mse", "gradient_difference"])
def test_accumulation_gives_what_one_batch_gives(accumulate, loss):
    options = {**OPTIONS, "optimizer": "sgd", "learning_rate": 0.02, "loss": loss}
    whole, parts = Plain(), Plain()
    first = fit(whole, LineData(), validation(), **options)
    second = fit(parts, LineData(), validation(), accumulate=accumulate, **options)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-6, atol=1e-6)
    for one, other in zip(losses(second), losses(first)):
        assert one == pytest.approx(other, rel=1e-6)
    assert not torch.equal(weights(whole), weights(Plain()))


@pytest.mark.parametrize(
    "setting",
    [
        {"batch_size": 4},
        {"gradient_clip": 1e-3},
        {"learning_rate": 0.05},
        {"loss": "mae"},
        {"optimizer": "adam", "weight_decay": 0.5},
        {"optimizer": "sgd"},
        {"precision": "bf16"},
        {"schedule": "cosine"},
        {"seed": 4},
        {"warmup_epochs": 0.5},
        {"weight_decay": 0.5},
    ],
    ids=str,
)
def test_no_setting_is_without_effect(setting):
    options, learnt = {**OPTIONS, "epochs": 1}, []
    for settings in (options, {**options, **setting}):
        model = Plain()
        fit(model, LineData(), **settings)
        learnt.append(weights(model))
    assert not torch.equal(*learnt)


def test_a_rate_on_a_plateau_falls():
    worse = validation()
    worse.y = -2 * worse.x  # every step of learning is a step back
    told = fit(Plain(), LineData(), worse, **{**OPTIONS, "epochs": 6, "schedule": "plateau"})
    assert [row["learning_rate"] for row in told.rows] == [0.1] * 4 + [0.05] * 2


def test_accumulation_calls_the_model_with_parts():
    class Counting(Plain):
        def forward(self, x):
            lengths.append(len(x))
            return super().forward(x)

    lengths: list[int] = []
    fit(Counting(), LineData(20), accumulate=3, **{**OPTIONS, "epochs": 1})
    assert lengths == [2, 3, 3, 2, 3, 3, 1, 1, 2]


TORCHS_OWN = pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")


def test_channels_last_learns_the_same():
    options = {"optimizer": "sgd"}  # Adam blows up the last digits of small gradients
    plain, history = forecast_weights(**options)
    model = build_model("convlstm", **SMALL)
    told = fit(model, Images(), Images(4, seed=1), channels_last=True, **{**SHORT, **options})
    other, layout = weights(model), torch.channels_last
    assert all(p.is_contiguous(memory_format=layout) for p in model.parameters() if p.dim() == 4)
    assert not model.embed.weight.is_contiguous()
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5)
    assert told.best_loss == pytest.approx(history.best_loss, rel=1e-4)


@TORCHS_OWN
def test_a_compiled_model_learns_the_same():
    options = {**OPTIONS, "optimizer": "sgd", "epochs": 2}
    plain, fast = Plain(), Plain()
    fit(plain, LineData(16), **options)
    fit(fast, LineData(16), compile=True, **options)
    torch.testing.assert_close(weights(fast), weights(plain), rtol=1e-5, atol=1e-6)


@TORCHS_OWN
def test_where_nothing_can_be_compiled_this_is_told(monkeypatch):
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/g++",))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    torch.compiler.reset()
    with pytest.raises(
        GlacierError, match="Line cannot be compiled here .*compiler.*: set train.compile to false"
    ):
        fit(Line(), LineData(8), compile=True, **OPTIONS)


@TORCHS_OWN
def test_a_compiled_model_is_what_runs_and_afterwards_is_as_before():
    model = Line()
    with compiled(model, True):
        assert model._compiled_call_impl is not None
        assert set(model.state_dict()) == set(Line().state_dict())
    assert model._compiled_call_impl is None


def test_channels_last_is_for_weights_of_four_axes_only():
    model = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv3d(2, 3, 3), nn.Linear(3, 3)])
    before = [p.detach().clone() for p in model.parameters()]
    use_channels_last(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[0].weight.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))


def test_bf16_computes_the_model_in_bf16_and_keeps_weights_and_losses_in_fp32():
    class Looks(Line):
        def forward(self, x):
            formats.append(self.layer(x).dtype)
            return super().forward(x)

    formats: list[torch.dtype] = []
    model = Looks()
    fit(model, LineData(8), precision="bf16", **OPTIONS)
    assert set(formats) == {torch.bfloat16} and model.layer.weight.dtype == torch.float32
    plain, history = forecast_weights()
    mixed, told = forecast_weights(precision="bf16")
    assert not torch.equal(plain, mixed)
    assert told.best_loss == pytest.approx(history.best_loss, rel=0.05)


def test_fp16_needs_cuda_and_unknown_formats_are_refused():
    with pytest.raises(InputError, match="'fp16' needs a CUDA device.*'cpu': give 'bf16'"):
        fit(Line(), LineData(), precision="fp16", **OPTIONS)
    with pytest.raises(InputError, match="did you mean 'fp16'"):
        fit(Line(), LineData(), precision="fp6", **OPTIONS)
    assert not Precision("bf16", torch.device("cpu")).scaler.is_enabled()


class HalfOnCPU(Precision):
    """fp16 where training refuses it because it is slow: the scaler and what it skips are the same as on a GPU."""

    def __init__(self, name, device):
        super().__init__("fp32", device)
        self.name, self.scaler = "fp16", torch.amp.GradScaler("cpu", growth_interval=5)


def test_fp16_skips_steps_that_overflow_counts_them_and_resumes_exactly(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(loop, "Precision", HalfOnCPU)
    data, options = LineData(), {**OPTIONS, "learning_rate": 0.02}
    whole = Line()
    history = fit(whole, data, validation(), **options)
    skipped = [row["skipped_steps"] for row in history.rows]
    assert 0 < sum(skipped) < 12 and history.best_loss < 0.8 * history.rows[0]["valid_loss"]
    assert f"in {max(skipped)} steps of the epoch; they were skipped" in caplog.text
    with pytest.raises(Killed):
        fit(Line(), DiesAfter(15), validation(), checkpoints=Checkpoints(tmp_path, every_steps=1), **options)
    again = Line()
    told = fit(again, data, validation(), checkpoints=Checkpoints(tmp_path), **options)
    assert torch.equal(weights(again), weights(whole)) and losses(told) == losses(history)


def test_fp16_that_overflows_always_ends_with_a_word(monkeypatch):
    monkeypatch.setattr(loop, "Precision", HalfOnCPU)
    data = LineData()
    data.y[:] = 1e30
    with pytest.raises(
        GlacierError, match="fp16 has overflowed in 26 steps in a row.*train.precision to bf16"
    ):
        fit(Line(), data, **{**OPTIONS, "epochs": 9})


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device: run with: make test TESTS='-m gpu'"
)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", [False, True])
def test_on_a_gpu_every_precision_learns_and_resumes(tmp_path, precision, compile):
    options = {
        **SHORT,
        "backend": Single("cuda"),
        "precision": precision,
        "compile": compile,
        "channels_last": True,
    }
    model = build_model("convlstm", **SMALL)
    history = fit(model, Images(), Images(4, seed=1), **options)
    plain = forecast_weights()[1]
    assert history.best_loss == pytest.approx(plain.best_loss, rel=0.05)
    assert history.rows[-1]["peak_memory_mb"] > 0
    fit(
        build_model("convlstm", **SMALL),
        Images(),
        checkpoints=Checkpoints(tmp_path),
        **{**options, "epochs": 1},
    )
    fit(build_model("convlstm", **SMALL), Images(), checkpoints=Checkpoints(tmp_path), **options)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_optimisers_and_schedules_resume_exactly(tmp_path, optimizer, schedule):
    options = {
        **OPTIONS,
        "optimizer": optimizer,
        "schedule": schedule,
        "warmup_epochs": 0.5,
        "learning_rate": 0.02,
    }
    whole = Line()
    history = fit(whole, LineData(), validation(), **options)
    with pytest.raises(Killed):
        checkpoints = Checkpoints(tmp_path, every_steps=1)
        fit(Line(), DiesAfter(14), validation(), checkpoints=checkpoints, **options)
    again = Line()
    told = fit(again, LineData(), validation(), checkpoints=Checkpoints(tmp_path), **options)
    assert torch.equal(weights(again), weights(whole)) and losses(told) == losses(history)
    rates = [row["learning_rate"] for row in told.rows]
    assert rates == [row["learning_rate"] for row in history.rows]
    assert rates[0] < 0.02 if schedule == "cosine" else rates[0] == 0.02


def test_a_run_may_be_prolonged_where_nothing_depends_on_its_length(tmp_path):
    fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **{**OPTIONS, "epochs": 2})
    model, whole = Line(), Line()
    fit(model, LineData(), checkpoints=Checkpoints(tmp_path), **OPTIONS)
    fit(whole, LineData(), **OPTIONS)
    assert torch.equal(weights(model), weights(whole))
    with pytest.raises(InputError, match="'schedule': 'constant'.*now.*'epochs': 4.*'schedule': 'cosine'"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), schedule="cosine", **OPTIONS)


def test_a_loss_that_is_a_partial_function_is_gone_on_from(tmp_path):
    for epochs in (1, 2):
        options = {**OPTIONS, "epochs": epochs, "loss": partial(ssim_mse, data_range=1.0)}
        history = fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **options)
    assert len(history.rows) == 2
    options["loss"] = partial(ssim_mse, data_range=0.5)
    with pytest.raises(InputError, match="ssim_mse of .*'data_range', 1.0"):
        fit(Line(), LineData(), checkpoints=Checkpoints(tmp_path), **options)


def test_a_validation_loss_that_is_never_a_number_is_told(tmp_path):
    class Far(Line):
        def forward(self, x):
            return super().forward(x) * (1.0 if self.training else float("inf"))

    for checkpoints in (None, Checkpoints(tmp_path)):
        with pytest.raises(
            GlacierError, match="none of 2 epochs has a finite loss on the validation sequences"
        ):
            fit(Far(), LineData(), validation(), checkpoints=checkpoints, **{**OPTIONS, "epochs": 2})


class Poisoned(LineData):
    """A batch whose target is so large that its square, or the square's gradient, is not finite."""

    def __init__(self, value):
        super().__init__()
        self.y[:, :], self.value = self.y, value

    def __getitems__(self, items):
        batch = super().__getitems__(items)
        if 17 in items:
            batch.targets[batch.targets_valid.unsqueeze(2)] = self.value
        return batch


def test_a_loss_or_gradient_that_is_not_finite_is_told_with_its_place():
    with pytest.raises(
        GlacierError, match=r"training loss is inf at epoch 0, step \d: lower train.learning_rate"
    ):
        fit(Line(), Poisoned(1e30), **OPTIONS)

    class Steep(Line):
        """Its gradient overflows where its value does not."""

        def forward(self, x):
            return super().forward(x) * 1e-18 * 1e30 * 1e-12

    with pytest.raises(GlacierError, match=r"norm of the gradient is (inf|nan) at epoch 0, step \d"):
        fit(
            Steep(),
            Poisoned(1e18),
            loss=lambda p, t, v: (((p - t) * v.unsqueeze(2)).sum() * 1e38, v.sum()),
            **OPTIONS,
        )


def test_frozen_weights_stay_and_frozen_batch_norms_keep_their_statistics():
    class Normed(Line):
        def __init__(self):
            super().__init__()
            self.norm, self.free = nn.BatchNorm2d(1), nn.BatchNorm2d(1)

        def forward(self, x):
            return self.layer(self.free(self.norm(x[:, 0]))).unsqueeze(1)

    model = Normed()
    freeze(model, ["norm.*", "free.weight"])
    model.layer.weight.requires_grad_(False)
    before = model.layer.weight.clone()
    fit(model, LineData(), **OPTIONS)
    assert torch.equal(model.layer.weight, before)
    assert model.norm.num_batches_tracked == 0 and model.free.num_batches_tracked > 0
    model.requires_grad_(False)
    with pytest.raises(InputError, match="every weight of the model is frozen"):
        fit(model, LineData(), **OPTIONS)


def test_a_row_tells_speed_waiting_memory_rate_and_gradient(caplog):
    caplog.set_level(logging.INFO, logger="glacierhpc")
    history = fit(Line(), LineData(), validation(), **OPTIONS)
    row = history.rows[0]
    assert list(row)[:3] == ["epoch", "train_loss", "valid_loss"]
    assert row["samples_per_s"] == pytest.approx(44 / row["seconds"], rel=0.05)
    assert 0 <= row["data_wait_share"] <= 1 and row["peak_memory_mb"] > 50
    assert row["gradient_norm"] > 0 and row["learning_rate"] == 0.1
    told = [record for record in caplog.records if "epoch 1 of 4" in record.getMessage()]
    assert "% of the time waiting for data" in told[0].getMessage()
    assert (told[0].done, told[0].total) == (1, 4)


def test_the_norm_is_told_without_clipping_too():
    sizes = [
        fit(Plain(), LineData(), **{**OPTIONS, "epochs": 1, "gradient_clip": clip}).rows[0]["gradient_norm"]
        for clip in (None, 1e9)
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)


def test_a_listener_hears_of_every_step():
    class Bar:
        def __init__(self):
            self.heard = []

        def update(self, step, steps, row):
            self.heard.append((step, steps, row))

    bar = Bar()
    fit(Line(), LineData(), progress=bar, **{**OPTIONS, "epochs": 2})
    assert [(step, steps, row["epoch"]) for step, steps, row in bar.heard] == [
        (step, 6, epoch) for epoch in (0, 1) for step in range(1, 7)
    ]
    assert math.isnan(bar.heard[0][2]["loss"]) and bar.heard[1][2]["loss"] > 0
    told = bar.heard[1][2]
    assert set(told) == {"epoch", "epochs", "loss", "samples_per_s", "data_wait_share", "peak_memory_mb"}
    assert 0 <= told["data_wait_share"] <= 1 and told["peak_memory_mb"] > 50


def test_without_a_bar_a_line_comes_now_and_then(caplog):
    caplog.set_level(logging.INFO, logger="glacierhpc")
    row = {"epoch": 0, "epochs": 3, "loss": 0.5, "samples_per_s": 10.0}
    row |= {"data_wait_share": 0.123, "peak_memory_mb": 512.0}
    quiet, talkative = meters.ProgressLog(every_s=1e6), meters.ProgressLog(every_s=0.0)
    for listener in (quiet, talkative):
        listener.update(2, 6, row)
    told = "epoch 1 of 3: loss 0.50000, 10.0 samples/s, 12.3% data wait, peak 512 MB"
    assert caplog.messages == [f"step 2 of 6 of {told}"]
    talkative.update(1, 6, row | {"loss": math.nan})  # as before the first step counts
    assert "step 1 of 6 of epoch 1 of 3: no loss yet, 10.0" in caplog.messages[1]


def test_deterministic_mode_refuses_what_may_differ_and_is_left_again():
    class Modes(Line):
        def forward(self, x):
            modes.append(torch.are_deterministic_algorithms_enabled())
            return super().forward(x)

    modes: list[bool] = []
    fit(Modes(), LineData(8), deterministic=True, **{**OPTIONS, "epochs": 1})
    assert modes == [True] and not torch.are_deterministic_algorithms_enabled()
    fit(Modes(), LineData(8), **{**OPTIONS, "epochs": 1})
    assert modes == [True, False]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"accumulate": 0}, "accumulate=0: give 1 or more"),
        ({"gradient_clip": 0.0}, "gradient_clip=0.0: give .* or None for no clipping"),
        ({"learning_rate": 0.0}, "learning_rate=0.0.*a rate above 0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"accumulate": 9}, "a batch of 8 cannot be taken in accumulate=9 parts"),
        ({"warmup_epochs": 4}, "warmup_epochs=4 does not fit into 4 epochs"),
        ({"warmup_epochs": -1}, "warmup_epochs=-1"),
        ({"teacher_forcing": 1.5}, "teacher_forcing=1.5 is no share"),
        ({"teacher_decay": "square"}, "teacher_decay 'square' is not known"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        fit(Line(), LineData(), **{**OPTIONS, **options})


def test_a_step_that_is_not_finite_is_skipped_on_demand_and_counted(caplog):
    data = LineData()
    data.y[5] = torch.inf  # as 7e4 becomes where gradients cross as fp16
    told = "the training norm of the gradient is inf .*train.on_nonfinite to skip|the training loss is inf"
    with pytest.raises(GlacierError, match=told):
        fit(Line(), data, validation(), **OPTIONS)
    model = Line()
    history = fit(model, data, validation(), on_nonfinite="skip", **OPTIONS)
    assert [row["skipped_steps"] for row in history.rows] == [1] * OPTIONS["epochs"]
    assert weights(model).isfinite().all() and history.best_loss < history.rows[0]["valid_loss"]
    assert "not finite, in 1 steps of the epoch; they were skipped" in caplog.text


def test_skipping_has_an_end():
    data = LineData()
    data.y[:] = 1e30
    with pytest.raises(GlacierError, match="was not finite in 26 steps in a row.*lower train.learning_rate"):
        fit(Line(), data, on_nonfinite="skip", **{**OPTIONS, "epochs": 9})
    with pytest.raises(InputError, match="on_nonfinite 'ignore' is not known"):
        fit(Line(), data, on_nonfinite="ignore", **OPTIONS)


def test_skipping_changes_nothing_where_all_is_finite():
    plain, skipping = Line(), Line()
    fit(plain, LineData(), **OPTIONS)
    fit(skipping, LineData(), on_nonfinite="skip", **OPTIONS)
    assert torch.equal(weights(plain), weights(skipping))


def test_a_training_that_stopped_at_a_bad_step_goes_on_by_skipping_it(tmp_path):
    data, kept = LineData(), Checkpoints(tmp_path, every_steps=1)
    data.y[5] = torch.inf
    with pytest.raises(GlacierError, match="set train.on_nonfinite to skip"):
        fit(Line(), data, checkpoints=kept, **OPTIONS)
    resumed, skipping = Line(), Line()
    fit(resumed, data, checkpoints=kept, on_nonfinite="skip", **OPTIONS)
    fit(skipping, data, on_nonfinite="skip", **OPTIONS)
    assert torch.equal(weights(resumed), weights(skipping))
