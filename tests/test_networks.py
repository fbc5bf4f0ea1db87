"""Networks of every kind: their fields as derived by hand, their responses as torch gives them.

The other route to both is in `Reference`: the network itself, a forward hook and gradients.
"""

import pytest
import torch
from conftest import custom_model
from networks import CASES, REFUSED, Case

from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError
from diversevis.method.response import respond
from diversevis.method.setup import prepare
from diversevis.models.network import OpenNetwork

LOCAL = [name for name, case in CASES.items() if case.field is not None]
WHOLE = [name for name, case in CASES.items() if case.field is None]
IMAGES = 12
CANVAS = 64  # pixels


def words(name, *more):
    case = CASES.get(name, Case())
    color = f"[{','.join(['0.5'] * case.colors)}]"
    return ["model=custom", f"model.target=networks.{name}", f"model.mean={color}",
            f"model.std={color}", f"layer={case.layer}", "unit=0-3", "n=2", "device=cpu", *more]  # fmt: skip


def setup_of(name, *more):
    return prepare(experiment_of(compose_config(words(name, *more))))


class Reference:
    """The network as a person calls it, in float32, with a hook on the layer."""

    def __init__(self, name):
        self.case = CASES[name]
        self.network = custom_model(f"networks.{name}").built().float()
        path, _, call = self.case.layer.replace("module.", "").partition("#")
        module = self.network if path == "output" else self.network.get_submodule(path)
        self.outputs, self.call = [], int(call or 1) - 1
        module.register_forward_hook(lambda module, inputs, out: self.outputs.append(out.clone()))

    def __call__(self, z):
        self.outputs.clear()
        self.network(z)
        output = self.outputs[self.call]
        return output.permute(0, 3, 1, 2) if self.case.last else output

    def box(self, z, unit):
        """First and last row and column of the pixels on which a unit's gradient is not 0."""
        z = z.clone().requires_grad_(True)
        self(z)[:, :, unit[0], unit[1]].square().sum().backward()
        seen = z.grad.abs().sum((0, 1)) > 0
        rows, columns = (seen.any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
        return (rows[0], rows[-1]), (columns[0], columns[-1])


def found_responses(setup, z, rows):
    """Of every unit to two images each, by the program: [unit, image]."""
    x = (255 * 0.5 * z).reshape(len(rows), 2, *z.shape[1:])
    return respond(setup, x, torch.tensor(rows)).responses


def check_responses(setup, z, expected, rectified):
    """Those of one and of four units to `z`; expected [image, channel] for all units."""
    assert (expected[:, :4].abs().amax(0) > 0).all()
    for rows in ([2], [3, 0, 1, 2]):
        count = 2 * len(rows)
        found = found_responses(setup, z[:count], rows)
        units = expected[:count].reshape(len(rows), 2, -1)
        wanted = torch.stack([units[i, :, row] for i, row in enumerate(rows)])
        difference = (found.relu() if rectified else found) - wanted
        assert difference.abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", LOCAL)
def test_field_and_responses_of_units(name):
    case, reference = CASES[name], Reference(name)
    z = torch.randn(IMAGES, case.colors, CANVAS, CANVAS)
    steps = [round(CANVAS / 2 / stride) // 4 * 4 for stride in case.stride]
    (top, bottom), (left, right) = reference.box(z, steps)
    assert (bottom - top + 1, right - left + 1) == case.field
    (below, _), (beside, _) = reference.box(z, [unit + 2 for unit in steps])
    assert ((below - top) / 2, (beside - left) / 2) == case.stride
    setup = setup_of(name)
    assert (setup.field.size, setup.field.stride) == (case.field, case.stride)
    with torch.no_grad():
        expected = reference(z)[:, :, steps[0], steps[1]]
    check_responses(setup, z[:, :, top : bottom + 1, left : right + 1], expected, case.rectified)


@pytest.mark.parametrize("name", WHOLE)
def test_responses_to_whole_images(name):
    case, reference = CASES[name], Reference(name)
    setup = setup_of(name, f"size=[{case.size[0]},{case.size[1]}]")
    assert (setup.field.size, setup.field.stride) == (case.size, (0, 0))
    z = torch.randn(8, case.colors, *case.size)
    with torch.no_grad():
        maps = reference(z)
    if maps.ndim == 4:
        expected = maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
    else:
        expected = maps[:, 0] if maps.ndim == 3 else maps  # the class token; a vector
    check_responses(setup, z, expected, case.rectified)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_images_need_their_size(name):
    with pytest.raises(InputError, match="size=224 or size="):
        setup_of(name)


@pytest.mark.parametrize("name", REFUSED)
def test_no_function_of_images_is_refused(name):
    with pytest.raises(InputError, match=f"layer=read.*{REFUSED[name]}"):
        setup_of(name)


@pytest.mark.parametrize("name", ["hook_before_the_network", "hook_that_pools"])
def test_hooks_count_in_the_list_of_layers(name):
    opened = OpenNetwork(model=custom_model(f"networks.{name}"))
    fields = dict(zip([x.name for x in opened.listing.layers], opened.fields(opened.listing.layers),
                      strict=True))  # fmt: skip
    assert (fields["read"].size, fields["read"].stride) == (CASES[name].field, CASES[name].stride)


@pytest.mark.parametrize(("size", "why"), [(10**8, "smaller size"), (32, "token=3.*is a map")])
def test_sizes_and_tokens_that_there_are_not(size, why):
    with pytest.raises(InputError, match=why):
        setup_of("relu_as_a_statement", f"size={size}", "token=3")


@pytest.mark.parametrize(("name", "why"), [("leaves", "SystemExit: 3"), ("lazy", "LazyConv2d")])
def test_functions_that_give_no_network(name, why):
    with pytest.raises(InputError, match=why):
        custom_model(f"networks.{name}").built()
