import math

import numpy as np
import pytest
import torch

from diversevis.errors import InputError
from diversevis.method import images

VGG19_SIZES = [3, 5, 10, 14, 24, 32, 40, 48, 68, 84, 100, 116, 156, 188, 220, 252]


def test_rendering_sets_norm_and_keeps_direction():
    raw = torch.randn(2, 3, 3, 9, 8)
    x = images.render(raw, 123.0)
    assert torch.allclose(x.flatten(2).norm(dim=2), torch.full((2, 3), 123.0), rtol=1e-6)
    cosine = torch.cosine_similarity(x.flatten(2), raw.flatten(2), dim=2)
    assert torch.allclose(cosine, torch.ones(2, 3))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (7, 10), (1, 1)])
def test_precondition_equals_its_fourier_definition(height, width):
    """Against the definition of docs/method.md, section 3, with numpy's full transform in float64."""
    gradient = torch.randn(1, 2, 3, height, width, dtype=torch.float64)
    rows = np.fft.fftfreq(height)[:, None] * height
    columns = np.fft.fftfreq(width)[None, :] * width
    gain = 1 / np.maximum(1, np.sqrt(np.hypot(rows, columns)))
    gain /= gain.mean()
    filtered = np.fft.ifft2(np.fft.fft2(gradient.numpy()) * gain).real
    found = images.precondition(gradient, "sqrt")
    assert torch.allclose(found, torch.from_numpy(filtered), rtol=1e-6, atol=3e-7)
    assert images.precondition(gradient, "none") is gradient


def test_frequency_weights_have_mean_one():
    weights = images.frequency_weights(24, 20, torch.float32, torch.device("cpu"))
    assert weights.shape == (24, 20)
    assert weights.mean().item() == pytest.approx(1, rel=1e-6)
    assert weights[0, 0] == weights[0, 1] == weights[0, -1] == weights.max()
    assert (weights[0, 1] / weights[0, 4]).item() == pytest.approx(2)


@pytest.mark.parametrize("size", [3, 9, 14, 16, 32, 35])
def test_precondition_rounds_alike_everywhere(size):
    """Alone and among others, with one thread and with several, wherever it lies in memory."""
    gradient = torch.randn(12, 6, 3, size, size)
    threads = torch.get_num_threads()
    whole = images.precondition(gradient, "sqrt")
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for part in (slice(0, 1), slice(5, 7), slice(1, 12)):
                found = images.precondition(gradient[part], "sqrt")
                assert torch.equal(found, whole[part])
            assert torch.equal(images.precondition(gradient[3:4, 2:3], "sqrt"), whole[3:4, 2:3])
    finally:
        torch.set_num_threads(threads)


def test_paper_norms_are_contrasts_31_to_34():
    assert len(images.PAPER_MEAN_NORMS) == 16
    for layer, size in zip(images.PAPER_MEAN_NORMS, VGG19_SIZES, strict=True):
        contrast = images.paper_norm("vgg19", layer) / math.sqrt(3 * size**2)
        assert 30.9 < contrast < 34
        assert images.norm_of_contrast(contrast, (size, size), channels=3) == pytest.approx(
            images.PAPER_MEAN_NORMS[layer] / 2
        )


def test_paper_norms_are_for_vgg19():
    with pytest.raises(InputError, match="norm=contrast"):
        images.paper_norm("resnet50", "conv1")
    with pytest.raises(InputError, match="pool2.*norm=contrast"):
        images.paper_norm("vgg19", "pool2")


def test_display_adds_the_mean_and_clips():
    x = torch.tensor([-500.0, 0.0, 500.0]).reshape(3, 1, 1).expand(3, 2, 4)
    shown = images.display(x, (0.5, 0.5, 0.5))
    assert shown.shape == (2, 4, 3)
    assert shown[0, 0].tolist() == [0, 128, 255]


def test_display_of_other_channels_is_grey():
    """One channel as it is; of more, their mean, and clipped only then."""
    grey = images.display(torch.tensor([-500.0, 9.5, 500.0]).reshape(3, 1, 1, 1), (0.5,))
    assert grey[:, 0, 0].tolist() == [[0] * 3, [137] * 3, [255] * 3]
    four = torch.tensor([300.0, -300.0, 4.0, 8.0]).reshape(4, 1, 1).expand(4, 2, 5)
    shown = images.display(four, (0.2, 0.4, 0.6, 0.8))
    assert shown.shape == (2, 5, 3)
    assert shown[0, 0].tolist() == [round(127.5 + 3)] * 3


def test_network_input_is_scaled_by_deviation():
    x = torch.full((1, 3, 2, 2), 51.0)
    z = images.to_network_input(x, (0.2, 0.5, 1.0))
    assert torch.allclose(z[0, :, 0, 0], torch.tensor([1.0, 0.4, 0.2]))
    assert images.to_network_input(x[:, :1], (0.4,)).flatten().tolist() == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_norm_is_contrast_of_all_values(channels):
    norm = images.norm_of_contrast(32.0, (36, 64), channels=channels)
    x = images.render(torch.randn(1, 2, channels, 36, 64), norm)
    assert x.square().mean((2, 3, 4)).sqrt().tolist()[0] == pytest.approx([32.0] * 2, rel=1e-5)
