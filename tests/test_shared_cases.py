"""Networks after public reports, with their right answers, where these are beside the repository."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import diversevis
from diversevis.errors import InputError
from diversevis.models.plain import central_place
from diversevis.models.receptive_field import ReceptiveField

FILE = Path(__file__).parents[2] / "shared" / "cases" / "networks.py"
QUICK = ["optimizer.steps=4", "optimizer.search_steps=2", "objective.restarts=2", "n=2",
         "images=tensor", "device=cpu"]  # fmt: skip
CANVAS = 128  # pixels

if FILE.is_file():
    spec = importlib.util.spec_from_file_location("shared_cases", FILE)
    cases = sys.modules["shared_cases"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    NAMES = list(cases.EXPECTED)
else:
    NAMES = []


def result_of(name, units, tmp_path):
    path = cases.EXPECTED[name][0]
    numbers = "[0.5]" if name == "grayscale" else "[0.5,0.5,0.5]"
    words = ["model=custom", f"model.target=shared_cases.{name}", f"layer={path}",
             f"unit={units}", f"model.mean={numbers}", f"model.std={numbers}", f"root={tmp_path}"]  # fmt: skip
    try:
        return diversevis.run(*words, *QUICK)
    except InputError as error:
        if "size=" not in str(error):
            raise
        return diversevis.run(*words, *QUICK, "size=64")


def own_responses(name, result, field):
    """Of the units to their images, by the module itself, amid noise on a larger canvas."""
    z = torch.as_tensor(result.images) / (255 * 0.5)
    units, n, color, height, width = z.shape
    z, unit = z.flatten(0, 1), None
    if not field.is_whole_image:
        place = central_place(field, (CANVAS, CANVAS))
        (top, left), unit = place.corner, place.unit
        canvas = 0.5 * torch.randn(units * n, color, CANVAS, CANVAS)
        canvas[:, :, top : top + height, left : left + width] = z
        z = canvas
    network, outputs = getattr(cases, name)().eval().float(), []
    module = network.get_submodule(cases.EXPECTED[name][0])
    module.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    with torch.no_grad():
        network(z)
    row, column = unit or (side // 2 for side in outputs[-1].shape[2:])
    answers = outputs[-1][:, :, row, column].reshape(units, n, -1)
    return answers[torch.arange(units), :, list(result.units)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("units", ["0", "0-3"])
def test_shared_case_has_right_answer(name, units, tmp_path):
    _, field, stride = cases.EXPECTED[name]
    if field == cases.REFUSED:
        with pytest.raises(InputError, match="passes|batch"):
            result_of(name, units, tmp_path)
        return
    result = result_of(name, units, tmp_path)
    seen = result.record["receptive_field"]
    seen = ReceptiveField(**{key: tuple(value) for key, value in seen.items()})
    if field == cases.WHOLE:
        assert seen.is_whole_image
    else:
        assert (seen.size, seen.stride) == (field, stride)
    own, answers = own_responses(name, result, seen), torch.as_tensor(result.responses)
    if name == "recurrent_block":  # the module returns it after its ReLU
        answers = answers.relu()
    assert torch.allclose(answers, own, rtol=1e-4, atol=1e-4 * float(own.abs().max()))
