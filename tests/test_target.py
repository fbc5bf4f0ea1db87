import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from diversevis.errors import InputError
from diversevis.models.targets import channel_targets, direction_targets


def test_channels_are_one_hot():
    targets = channel_targets("1,3", 5, "conv")
    assert targets.units == (1, 3)
    assert targets.vectors.tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
    assert (targets.text, targets.sha256) == ("1,3", None)


def test_directions_from_npy_and_safetensors(tmp_path):
    rows = np.arange(12, dtype=np.float64).reshape(3, 4)
    np.save(tmp_path / "pcs.npy", rows)
    save_file({"v": torch.tensor([1.0, 0, 0, 2.0])}, tmp_path / "one.safetensors")
    chosen = direction_targets([0, 2], tmp_path / "pcs.npy", 4, "conv")
    assert chosen.vectors.tolist() == rows[[0, 2]].tolist()
    assert chosen.text == "direction-pcs-0,2"
    one = direction_targets(0, tmp_path / "one.safetensors", 4, "conv")
    assert (one.units, one.vectors.tolist()) == ((0,), [[1, 0, 0, 2]])
    assert one.text == "direction-one"
    assert one.sha256 != chosen.sha256


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.ones(5), r"shape \[5\].*4 channels"), (np.ones((2, 2, 4)), "shape"),
     (np.array([1, np.nan, 0, 0]), "NaN"), (np.zeros(4), "zeros"),
     (np.array(["a", "b", "c", "d"]), "not numbers"), (np.array([{}] * 4, dtype=object), "cannot be read")],
)  # fmt: skip
def test_unusable_directions_are_refused(tmp_path, values, words):
    np.save(tmp_path / "d.npy", values, allow_pickle=True)
    with pytest.raises(InputError, match=words):
        direction_targets(0, tmp_path / "d.npy", 4, "conv")


def test_bad_direction_files_are_refused(tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"hello")
    (tmp_path / "bad.safetensors").write_bytes(b"hello")
    (tmp_path / "d.txt").write_text("1 2 3 4")
    save_file({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "two.safetensors")
    for name, words in [("bad.npy", "cannot be read"), ("bad.safetensors", "cannot be read"),
                        ("d.txt", "must end in"), ("two.safetensors", "2 tensors"),
                        ("none.npy", "is not a file")]:  # fmt: skip
        with pytest.raises(InputError, match=words):
            direction_targets(0, tmp_path / name, 4, "conv")
