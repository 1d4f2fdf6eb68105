"""The published architectures: their parameters counted by hand, and what feeds on what."""

import pytest
import torch

from glacierhpc.models import build_model
from tests.models.zoo import inputs, stirred


def lstm(width, layers):
    """Of `layers` layers as wide as their input: four gates, each with two matrices and two biases."""
    return layers * 4 * (2 * width**2 + 2 * width)


def attention(width):
    """Query, key, value and output: a matrix and a bias each."""
    return 4 * (width**2 + width)


def cell(channels, hidden):
    """Four gates of a 3 x 3 convolution over the frame and the state."""
    return 4 * hidden * (9 * (channels + hidden) + 1)


def twice(channels, width):
    """Two 3 x 3 convolutions without bias, each with scale and shift of its batch norm."""
    return 9 * channels * width + 9 * width**2 + 2 * 2 * width


def unet(widths):
    total = twice(1, widths[0]) + widths[0] + 1  # with the 1 x 1 convolution to the image
    for high, low in zip(widths, widths[1:]):
        total += twice(high, low) + (4 * low * high + high) + twice(2 * high, high)
    return total


def convlstm(encoder, decoder):
    chain = [
        (1, encoder[0]),
        *zip(encoder, encoder[1:]),
        (encoder[-1], decoder[0]),
        *zip(decoder, decoder[1:]),
    ]
    return sum(cell(*pair) for pair in chain) + 9 * decoder[-1] + 1


WIDTH = 50 * 50
PUBLISHED = {
    "paper_lstm": (2 * lstm(WIDTH, 3), 300_120_000, "300.1"),
    "paper_attention_lstm": (
        lstm(WIDTH, 3) + attention(WIDTH) + (4 * WIDTH * WIDTH + WIDTH),
        200_072_500,
        "200.07",
    ),
    "paper_convlstm": (convlstm((128, 64, 32), (32, 64, 32)), 1_554_593, "1.55"),
    "paper_unet": (unet((64, 128, 256, 512, 1024)), 31_036_481, "31.0"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_published(name):
    derived, exact, published = PUBLISHED[name]
    with torch.device("meta"):  # counted, not held: the largest would take 1.2 GB
        model = build_model(name, size=50)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == derived == exact
    digits = len(published.split(".")[1])
    assert f"{count / 1e6:.{digits}f}" == published


def test_attention_has_as_many_heads_as_the_image_allows():
    heads = {size: build_model("paper_attention_lstm", size=size).attention.num_heads for size in (5, 6, 7)}
    assert heads == {5: 5, 6: 4, 7: 1}
    with torch.device("meta"):
        assert build_model("paper_attention_lstm", size=50).attention.num_heads == 5


@pytest.mark.parametrize("name", PUBLISHED)
def test_invalid_pixels_enter_as_zero_on_the_scale_of_the_values(name):
    model, given = stirred(name, steps_out=1, value_range=(0, 10)), inputs(name)
    middle = torch.where(given["images_valid"].unsqueeze(2), given["images"], 5.0)
    with torch.no_grad():
        assert torch.equal(model(**given), model(middle))


@pytest.mark.parametrize("name", ["paper_lstm", "paper_attention_lstm", "paper_unet"])
def test_a_step_follows_the_frame_before(name):
    """Free running is being taught one's own forecast."""
    model, given = stirred(name, steps_out=3, value_range=(-2, 2)), inputs(name, steps_out=3)
    with torch.no_grad():
        alone = model(**given)
        everywhere = torch.ones_like(alone[:, :, 0], dtype=torch.bool)
        taught = model(**given, teacher=(alone, everywhere, everywhere[:, :, 0, 0]))
    torch.testing.assert_close(taught, alone)


def test_the_unet_sees_the_last_frame_alone():
    model, given = stirred("paper_unet", steps_out=1), inputs("paper_unet")
    older = given["images"].clone()
    older[:, :-1] += 1
    with torch.no_grad():
        assert torch.equal(model(**given), model(**(given | {"images": older})))


def test_the_lstm_forecasts_its_state():
    model, given = stirred("paper_lstm", steps_out=2, value_range=(2, 6)), inputs("paper_lstm")
    with torch.no_grad():
        forecast = model(100 * given["images"], given["images_valid"])
    assert forecast.min() > 2 and forecast.max() < 6


def test_the_attention_reads_its_outputs_again():
    """Of the second lead, by hand: outputs and frame, the oldest dropped, through the same LSTM."""
    model, given = stirred("paper_attention_lstm", steps_out=2), inputs("paper_attention_lstm")
    with torch.no_grad():
        images = torch.where(given["images_valid"].unsqueeze(2), given["images"], 0.0).flatten(2)
        outputs = model.encoder(images)[0]
        for lead in range(2):
            attended = model.attention(outputs, outputs, outputs)[0]
            frame = model.linear(attended.reshape(2, -1))
            torch.testing.assert_close(model(**given)[:, lead].flatten(1), frame)
            outputs = model.encoder(torch.cat([outputs, frame.unsqueeze(1)], dim=1)[:, -4:])[0]


def test_the_convolutional_writer_starts_from_nothing_at_every_lead():
    """By hand: over the reader's four outputs, then over its own last one, from empty states each time."""
    model, given = stirred("paper_convlstm", steps_out=3), inputs("paper_convlstm", steps_out=3, height=7)

    def run(stack, frames):
        for layer in stack:
            state = 2 * [torch.zeros(2, layer.hidden, 7, 7)]
            outputs = []
            for frame in frames:
                state = layer(frame, state)
                outputs.append(state[0])
            frames = outputs
        return frames

    with torch.no_grad():
        images = torch.where(given["images_valid"].unsqueeze(2), given["images"], 0.0)
        frames = run(model.encoder, images.unbind(dim=1))
        for lead in range(3):
            frames = run(model.decoder, frames)[-1:]
            torch.testing.assert_close(model(**given)[:, lead], model.conv(frames[0]))
