"""The network's input in every convention: the same filters give the same responses."""

import pytest
import torch
from conftest import custom_model
from torch import nn

from diversevis.config.compose import compose_config, experiment_of
from diversevis.method.response import respond
from diversevis.method.setup import prepare

MEAN, STD = (0.3, 0.5, 0.6), (0.2, 0.25, 0.3)
MEAN_WORDS, STD_WORDS = "model.mean=[0.3,0.5,0.6]", "model.std=[0.2,0.25,0.3]"


class Filters(nn.Module):
    """Two convolutions of an RGB image, after `prepared`."""

    def __init__(self, prepared=lambda x: x):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1)
        self.prepared = prepared

    def forward(self, x):
        return self.second(torch.relu(self.first(self.prepared(x))))


def normalised():
    return Filters()


def normalises_inside():
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return Filters(lambda x: (x - mean) / std)


def takes_grey_levels():
    return Filters(lambda x: x / 255)


def takes_bgr():
    return Filters(lambda x: x.flip(1))


def takes_bgr_levels_and_normalises():
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return Filters(lambda x: (x.flip(1) / 255 - mean) / std)


def responses_of(name, *words):
    target = f"model.target=test_conventions.{name}"
    words = ["model=custom", target, "layer=second", "unit=0-3", "device=cpu", *words]
    setup = prepare(experiment_of(compose_config(words)))
    x = torch.randn(4, 2, 3, 5, 5, generator=torch.Generator().manual_seed(1)) * 30
    return setup, respond(setup, x, torch.arange(4)).responses


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("normalises_inside", [MEAN_WORDS, "model.inside=true"]),
        ("takes_grey_levels", [MEAN_WORDS, STD_WORDS, "model.scale=255"]),
        ("takes_bgr", [MEAN_WORDS, STD_WORDS, "model.order=bgr"]),
        (
            "takes_bgr_levels_and_normalises",
            [MEAN_WORDS, "model.inside=true", "model.scale=255", "model.order=bgr"],
        ),
    ],
)
@pytest.mark.parametrize("traced", [True, False])
def test_conventions_give_same_responses(name, words, traced, monkeypatch):
    _, expected = responses_of("normalised", MEAN_WORDS, STD_WORDS)
    if not traced:
        monkeypatch.setattr("diversevis.models.network.trace", None)
    setup, responses = responses_of(name, *words)
    assert traced or setup.way == "plain"
    assert torch.allclose(responses, expected, rtol=1e-4, atol=1e-4)


def test_conventions_count_in_the_hash():
    from diversevis.runs.identity import science

    plain = science(responses_of("normalised", MEAN_WORDS, STD_WORDS)[0])
    scaled = science(responses_of("normalised", MEAN_WORDS, STD_WORDS, "model.scale=255")[0])
    assert "input" not in plain
    assert scaled["input"] != plain.get("input")


def test_inside_has_mid_grey_by_default():
    assert custom_model("x.y", mean=None, std=None, inside=True).mean is None
    setup, _ = responses_of("normalises_inside", "model.inside=true")
    assert setup.network.weights.mean == (0.5, 0.5, 0.5)
    assert setup.network.weights.std == (1.0, 1.0, 1.0)
