import logging

import numpy as np
import pytest
import torch
from PIL import Image

from diversevis.errors import InputError
from diversevis.method.gains import _crop
from diversevis.models.receptive_field import ReceptiveField
from diversevis.photographs.means import mean_activations

LOG = logging.getLogger("diversevis")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two uniform pictures, one of them nested, and a file that is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures = tmp_path / "pictures"
    (pictures / "deep").mkdir(parents=True)
    Image.new("RGB", (400, 300), (51, 102, 204)).save(pictures / "a.png")
    Image.new("L", (20, 900), 255).save(pictures / "deep" / "b.PNG")
    (pictures / "broken.jpg").write_bytes(b"no picture")
    return pictures


def means(folder, activations, **changes):
    settings = {
        "identity": "x", "mean": (0.2, 0.4, 0.8), "std": (0.5, 0.5, 0.5), "crop": (226, 230),
        "device": torch.device("cpu"),
    }  # fmt: skip
    return mean_activations(activations, folder, **(settings | changes))


def test_means_over_photographs_and_positions(folder, caplog):
    """Closed form: z is 0 in the first picture and (1.6, 1.2, 0.4) in the second."""
    shapes = []
    LOG.addHandler(caplog.handler)

    def activations(z):
        shapes.append(tuple(z.shape))
        return [z, 2 * z.sum(1, keepdim=True)]

    first, second = means(folder, activations)
    assert first.tolist() == pytest.approx([0.8, 0.6, 0.2], rel=1e-5)
    assert second.tolist() == pytest.approx([3.2], rel=1e-5)
    assert shapes == [(1, 3, 226, 230)] * 2
    LOG.removeHandler(caplog.handler)
    assert "broken.jpg" in caplog.text

    again = means(folder, lambda z: pytest.fail("computed again"))
    assert torch.equal(again[0], first)
    assert len(means(folder, lambda z: [z], identity="other weights")) == 1


def test_cache_notices_changed_photographs(folder):
    means(folder, lambda z: [z])
    Image.fromarray(np.zeros((300, 300, 3), np.uint8)).save(folder / "c.png")
    calls = []
    means(folder, lambda z: calls.append(1) or [z])
    assert len(calls) == 3


def test_folders_without_photographs_are_refused(tmp_path, folder):
    with pytest.raises(InputError, match=r"objective.photographs=.*none is not a folder"):
        means(tmp_path / "none", lambda z: [z])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"objective.photographs=.*holds no image"):
        means(tmp_path / "empty", lambda z: [z])
    (tmp_path / "empty" / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match="none of its files"):
        means(tmp_path / "empty", lambda z: [z])


@pytest.mark.parametrize(
    ("size", "stride", "expected"),
    [((10, 10), (4, 4), (226, 226)), ((10, 231), (4, 2), (226, 239)), ((5, 4), (0.5, 1), (224, 224)),
     ((36, 64), (0, 0), (36, 64))],
)  # fmt: skip
def test_crop_holds_whole_strides(size, stride, expected):
    """At least 224 pixels and four strides; the whole image where units see that."""
    assert _crop(ReceptiveField(size=size, stride=stride, offset=(0, 0))) == expected
