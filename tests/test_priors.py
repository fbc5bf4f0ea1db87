"""Priors of natural images: closed forms, gradients, and their place in the objective and in runs."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from test_batches import assert_alike, setup_of
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from diversevis.config.compose import compose_config, experiment_of
from diversevis.errors import InputError
from diversevis.method.images import norm_of_contrast, render
from diversevis.method.objective import Objective
from diversevis.method.prior import costs_of, measure_costs, prior_weight
from diversevis.method.visualize import visualize
from diversevis.priors.model_file import read_prior, serialize, shipped
from diversevis.priors.open import View, open_prior
from diversevis.priors.patches import PatchMixture, patch_basis, patches_of
from diversevis.priors.settings import Patches, Spectrum, TotalVariation
from diversevis.priors.spectrum import SpectrumDistance, one_over_f, power, to_opponent
from diversevis.priors.tv import SMOOTH, total_variation
from diversevis.runs.identity import science

QUICK = ["layer=complex", "n=3", "objective.restarts=2", "optimizer.steps=12",
         "optimizer.search_steps=5"]  # fmt: skip
COMMON = {"weight": 0.1, "reduce": "mean", "photographs": None, "check": None}
MEAN = (0.485, 0.456, 0.406)


def view_of(*shape, contrast=32.0):
    norm = norm_of_contrast(contrast, shape[1:], channels=shape[0])
    mean = MEAN if shape[0] == 3 else (0.45,) * shape[0]
    return View(shape=shape, mean=mean, norm=norm, device=torch.device("cpu"))


def random_mixture(colors=3, components=5, factors=4):
    torch.manual_seed(1)
    mixture = PatchMixture(colors=colors, components=components, factors=factors)
    for value in mixture.parameters():
        value.data = torch.randn_like(value) * 0.3
    mixture.means.data *= 10
    mixture.log_scales.data += 2
    return mixture


@pytest.fixture
def mixture_file(tmp_path):
    path = tmp_path / "mixture.safetensors"
    path.write_bytes(serialize("patches", random_mixture(), MEAN, {"made": "by hand"}))
    return path


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).normal(size=(300, 300, 1)) * np.ones(3)
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(300), np.fft.fftfreq(300)))
        falling = 1 / np.maximum(frequency, 1 / 300)[..., None]
        waves = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) * falling, axes=(0, 1)).real
        pixels = 127 + 60 * (waves - waves.mean()) / waves.std()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{index}.png")
    return folder


# -- closed forms ---------------------------------------------------------------------------------


def test_total_variation_of_a_step_and_of_a_ramp():
    """A step of height h across s rows of an s x s image: h / s in the mean; a ramp: its slope."""
    x = torch.zeros(2, 3, 8, 8)
    x[0, :, :, 4:] = 20
    x[1] = 5 * torch.arange(8.0)[:, None]
    expected = torch.tensor([20 / 10 / 8, 5 / 10 * 7 / 8])
    found = total_variation(x, contrast=10.0)
    assert torch.allclose(found, expected, atol=SMOOTH)
    assert total_variation(torch.full((1, 3, 4, 4), 7.0), 10.0).item() == pytest.approx(0, abs=1e-6)


def test_total_variation_of_noise_is_known():
    """Differences of white noise of variance 1 have variance 2, in both directions."""
    x = torch.randn(64, 3, 40, 40)
    expected = 2 * (1 - 1 / 9 / 2)  # the mean of a root of 6 squares, about 1 - 1/(4 * 3)
    assert total_variation(x, contrast=1.0).mean().item() == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 7, 5), (1, 9, 6), (4, 6, 6)])
def test_power_is_that_of_the_fourier_transform(shape):
    x = torch.randn(2, 5, *shape, dtype=torch.float64)
    expected = torch.fft.fft2(to_opponent(x), norm="ortho").abs().square()
    assert torch.allclose(power(x), expected, atol=1e-12)
    assert torch.allclose(power(x).sum((2, 3, 4)), x.square().sum((2, 3, 4)))


def test_one_over_f_falls_by_octaves():
    expected = one_over_f(16, 16, 1.0, total=100.0)[0]
    assert expected.sum().item() == pytest.approx(100)
    assert (expected[0, 1] / expected[0, 2]).item() == pytest.approx(4)
    assert (expected[0, 2] / expected[4, 0]).item() == pytest.approx(4)
    assert expected[0, 0] == expected[0, 1]


def test_spectrum_distance_is_the_divergence_of_gaussians():
    """Of N(0, P) from N(0, T) per number, and 0 where the spectra agree."""
    x = torch.randn(1, 6, 1, 6, 6, dtype=torch.float64)
    measured = power(x).mean(1)[0]
    ratios = torch.linspace(0.5, 2, 36, dtype=torch.float64).reshape(1, 6, 6)
    cost = SpectrumDistance(expected=measured / ratios)(x)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(0, measured.sqrt()),
        torch.distributions.Normal(0, (measured / ratios).sqrt()),
    )
    assert torch.allclose(cost, kl.mean().expand(1, 6), rtol=1e-3)
    assert SpectrumDistance(expected=measured)(x).abs().max().item() < 1e-9


def test_spectrum_leaves_only_phases_to_differ():
    x = torch.randn(1, 4, 3, 12, 12, dtype=torch.float64)
    cost = SpectrumDistance(expected=one_over_f(12, 12, 1.0, total=144.0))
    assert torch.allclose(cost(x), cost(x.roll((3, 5), (3, 4))))
    assert torch.allclose(cost(x), cost(x.flip(3, 4)))


# -- patches --------------------------------------------------------------------------------------


def as_gaussians(mixture):
    """The components as torch's own, with full covariances in pixels."""
    basis = patch_basis(mixture.colors).double()
    spread = mixture.log_scales.detach().double().exp()
    loadings = mixture.loadings.detach().double() * spread[:, None]
    covariance = torch.diag_embed(spread.square()) + loadings.mT @ loadings
    means = mixture.means.detach().double() @ basis
    return mixture.weights.detach().double(), means, basis.T @ covariance @ basis


def log_likelihood(weights, means, covariances, x):
    gaussians = MultivariateNormal(means, covariances)
    return MixtureSameFamily(Categorical(logits=weights), gaussians).log_prob(x)


def test_basis_is_orthonormal():
    for colors in (1, 3):
        basis = patch_basis(colors).double()
        assert torch.allclose(basis @ basis.T, torch.eye(len(basis)).double(), atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (3, 3), (8, 4), (5, 11)])
def test_mixture_equals_full_gaussians(size):
    """Of a patch, and of the marginal of a smaller image; patch by patch in a longer one."""
    mixture = random_mixture().double()
    weights, means, covariances = as_gaussians(mixture)
    x = torch.randn(4, 3, *size, dtype=torch.float64) * 5
    rows, columns = (min(side, 8) for side in size)
    kept = torch.zeros(3, 8, 8, dtype=torch.bool)
    kept[:, :rows, :columns] = True
    kept = kept.flatten()
    parts = [x[..., left : left + columns].flatten(1) for left in range(size[1] - columns + 1)]
    expected = torch.stack([
        log_likelihood(weights, means[:, kept], covariances[:, kept][:, :, kept], part)
        for part in parts
    ]).mean(0)  # fmt: skip
    assert torch.allclose(mixture(x), -expected / kept.sum(), rtol=1e-6)
    assert torch.allclose(mixture.folded()(x), -expected / kept.sum(), rtol=1e-6)


def test_grey_is_the_marginal_of_the_mean_over_colours():
    mixture = random_mixture().double()
    weights, means, covariances = as_gaussians(mixture)
    mean = torch.kron(torch.ones(1, 3), torch.eye(64)).double() / 3
    x = torch.randn(4, 1, 8, 8, dtype=torch.float64) * 5
    expected = log_likelihood(weights, means @ mean.T, mean @ covariances @ mean.T, x.flatten(1))
    assert torch.allclose(mixture.grey()(x), -expected / 64, rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(8, 8), (19, 24), (27, 10)])
def test_patches_cover_every_pixel(size, stride):
    x = torch.ones(1, 1, *size, requires_grad=True)
    patches = patches_of(x, stride)
    patches.sum().backward()
    assert patches.shape[1] == 64
    assert x.grad.min() >= 1
    assert x.grad[0, 0, 0, 0] == 1  # and the corners once
    assert x.grad[0, 0, -1, -1] == 1


# -- all of them ----------------------------------------------------------------------------------


def costs(mixture_file, photos, view):
    """Name -> the cost of every prior that needs no long training."""
    shared = {**COMMON, "photographs": str(photos)}
    return {
        "tv": open_prior(TotalVariation(kind="tv", **COMMON), view).cost,
        "spectrum": open_prior(Spectrum(kind="spectrum", exponent=1.0, **COMMON), view).cost,
        "measured": open_prior(Spectrum(kind="spectrum", exponent=1.0, **shared), view).cost,
        "patches": open_prior(
            Patches(kind="patches", file=str(mixture_file), stride=4, **COMMON), view
        ).cost,
        "shipped": open_prior(Patches(kind="patches", file=None, stride=4, **COMMON), view).cost,
    }


@pytest.mark.parametrize("shape", [(3, 13, 12), (3, 5, 5)])
def test_gradients_equal_finite_differences(shape, mixture_file, photos):
    """In float64, along random directions."""
    view = view_of(*shape)
    for name, cost in costs(mixture_file, photos, view).items():
        x = render(torch.randn(2, 3, *shape, dtype=torch.float64), view.norm).requires_grad_(True)
        values = in_float64(cost)(x)
        assert values.shape == (2, 3)
        (gradient,) = torch.autograd.grad(values.sum(), x)
        direction = torch.randn_like(x)
        with torch.no_grad():
            up, down = (in_float64(cost)(x + sign * 1e-4 * direction).sum() for sign in (1, -1))
        along = (gradient * direction).sum()
        assert ((up - down) / 2e-4 - along).abs() < 1e-5 * along.abs() + 1e-9, name


def in_float64(cost):
    """The cost with its tensors in float64, where it has any."""
    if isinstance(cost, SpectrumDistance):
        return dataclasses.replace(cost, expected=cost.expected.double())
    for cell in getattr(cost, "__closure__", None) or ():
        inner = cell.cell_contents
        if isinstance(inner, torch.nn.Module):
            inner.double()
            getattr(inner, "folded", lambda: None)()
        elif callable(inner):
            in_float64(inner)
    return cost


@pytest.mark.parametrize("shape", [(3, 14, 14), (3, 3, 3), (3, 5, 5), (3, 7, 12), (3, 2, 20)])
def test_costs_are_the_same_alone_and_among_others(shape, mixture_file, photos):
    """To the bit, with the gradients."""
    view = view_of(*shape)
    for name, cost in costs(mixture_file, photos, view).items():
        x = render(torch.randn(20, 6, *view.shape), view.norm)

        def found(part, cost=cost):
            part = part.clone().requires_grad_(True)
            values = cost(part)
            return values.detach(), torch.autograd.grad(values.sum(), part)[0]

        many = found(x)
        for units in (1, 3):
            for one, all_of_them in zip(found(x[:units]), many, strict=True):
                assert_alike(one, all_of_them[:units])
        if name not in ("spectrum", "measured"):  # which look at the whole set
            for one, all_of_them in zip(found(x[:1, :1]), many, strict=True):
                assert_alike(one, all_of_them[:1, :1])


def test_photographs_cost_less_than_noise_of_their_norm(mixture_file, photos):
    view = view_of(3, 16, 16)
    settings = Spectrum(kind="spectrum", exponent=1.0, **{**COMMON, "photographs": str(photos)})
    crops = open_prior(settings, view).crops[:60].reshape(10, 6, *view.shape)
    noise = render(torch.randn(crops.shape), view.norm)
    for name, cost in costs(mixture_file, photos, view).items():
        if name != "patches":  # random numbers, not photographs
            assert cost(crops).mean() < 0.8 * cost(noise).mean(), name


def test_images_are_taken_around_the_mean_of_the_prior(mixture_file):
    """The same pixels have the same cost in networks with other means."""
    settings = Patches(kind="patches", file=str(mixture_file), stride=4, **COMMON)
    views = [dataclasses.replace(view_of(3, 9, 9), mean=mean) for mean in (MEAN, (0.5, 0.4, 0.3))]
    pixels = 255 * torch.rand(1, 2, 3, 9, 9)
    one, other = (
        open_prior(settings, view).cost(pixels - 255 * torch.tensor(view.mean)[:, None, None])
        for view in views
    )
    assert torch.allclose(one, other, rtol=1e-4)


# -- in the objective and in runs -----------------------------------------------------------------


def test_prior_is_a_term_of_the_objective():
    objective = Objective(
        diversity=torch.tensor([0.1, 0.2]), response_scale=torch.tensor([2.0, 4.0]),
        distance_scale=torch.ones(2), enough=None, prior=0.3,
    )  # fmt: skip
    responses, features = torch.rand(2, 3), torch.rand(2, 3, 5)
    priced = torch.rand(2, 3)
    without = dataclasses.replace(objective, prior=0.0)(responses, features, 2.0)
    terms = objective(responses, features, 2.0, 0.0, priced)
    assert torch.allclose(terms["prior_cost"], priced.mean(1))
    assert torch.allclose(terms["prior"], -0.3 * priced.mean(1))
    assert torch.allclose(terms["loss"], without["loss"] + 0.3 * priced.mean(1))
    # Where distances are emphasised, the prior counts less by the same factor.
    assert torch.allclose(terms["descent"], without["descent"] + 0.3 / 2 * priced.mean(1))


def test_weight_means_the_same_at_any_size():
    """`mean` is per pixel, channel and image; `sum` is the published form."""
    setup = setup_of(*QUICK, "prior=tv", "prior.weight=0.5", "prior.check=null")
    assert prior_weight(setup) == 0.5
    summed = setup_of(
        *QUICK, "prior=tv", "prior.weight=0.5", "prior.reduce=sum", "prior.check=null"
    )
    assert prior_weight(summed) == 0.5 * 3 * math.prod(summed.image_shape)


@pytest.mark.parametrize("prior", ["tv", "spectrum", "patches", "mcgsm"])
def test_prior_lowers_its_cost_and_the_search_ignores_it(prior):
    words = ["model=vgg19", "model.weights=random", "layer=conv2_1", "unit=[0,5]", "n=3"]
    plain = visualize(setup_of(*words), [0, 1])
    setup = setup_of(*words, f"prior={prior}", "prior.weight=0.1")
    for one, other in zip(plain, visualize(setup, [0, 1]), strict=True):
        assert {"prior_cost", "prior"} <= {*other.trace}
        cost = setup.prior.cost(torch.stack([one.images, other.images])).mean(1)
        assert cost[1] < cost[0]
        assert other.metrics["prior_cost_images"] == pytest.approx(cost[1].item(), rel=1e-4)
        best = other.metrics["prior_response_scale"]
        assert best == pytest.approx(one.metrics["response_best"], rel=0.01)
        total = sum(other.trace[name] for name in ("response", "diversity", "prior"))
        assert torch.allclose(-total, other.trace["loss"], atol=1e-5)


def test_weight_of_zero_changes_no_image():
    words = [*QUICK, "unit=[0,5]"]
    plain = visualize(setup_of(*words), [0, 1])
    weightless = visualize(setup_of(*words, "prior=patches", "prior.weight=0"), [0, 1])
    for one, other in zip(plain, weightless, strict=True):
        assert torch.allclose(one.images, other.images, atol=1e-3)


def test_unit_alone_equals_unit_among_others():
    words = [
        "model=vgg19",
        "model.weights=random",
        "layer=conv2_1",
        "unit=0-5",
        "optimizer.steps=8",
    ]
    setup = setup_of(*words, "optimizer.search_steps=8", "prior=patches")
    among, (alone,) = visualize(setup, range(6))[3], visualize(setup, [3])
    assert_alike(alone.images, among.images)
    assert_alike(alone.trace["prior_cost"], among.trace["prior_cost"])


def test_front_and_metamers_have_a_prior(photos):
    front = setup_of(*QUICK, "prior=tv", "objective=path", "objective.front=[0,0.1,0.4]")
    (result,) = visualize(front, [0])
    assert len(result.metrics["front"]) == 3
    assert result.metrics["prior_cost_images"] is not None
    metamers = setup_of("layer=complex", "objective=metamers", f"objective.reference={photos}/0.png",
                        "optimizer.steps=5", "prior=tv")  # fmt: skip
    (result,) = visualize(metamers, [0])
    assert "prior" in result.trace


def test_hash_follows_the_prior_and_no_path(mixture_file, photos, tmp_path):
    def of(*words):
        return science(setup_of(*QUICK, *words))

    assert "prior" not in of()
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(mixture_file.read_bytes())
    first, second = (of("prior=patches", f"prior.file={file}") for file in (mixture_file, copy))
    assert first == second
    assert first != of("prior=patches")
    assert first != of("prior=patches", f"prior.file={copy}", "prior.weight=0.2")
    assert of("prior=tv") != of("prior=tv", f"prior.photographs={photos}")


# -- the guard ------------------------------------------------------------------------------------


def test_guard_compares_with_photographs_and_noise(photos):
    setup = setup_of(*QUICK, "unit=[0,5]", "prior=spectrum", f"prior.photographs={photos}")
    x = render(torch.randn(2, 3, *setup.image_shape).cumsum(3).cumsum(4), setup.norm)
    noise, best = torch.randn_like(x), x[:, :1]
    rows = measure_costs(setup, torch.tensor([0, 1]), x, [noise, best])
    for row, of_unit, of_noise in zip(rows, x, noise, strict=True):
        cost = setup.prior.cost(of_unit[None]).mean().item()
        assert row["prior_cost_images"] == pytest.approx(cost, rel=1e-5)
        cost = setup.prior.cost(render(of_noise[None], setup.norm)).mean().item()
        assert row["prior_cost_noise"] == pytest.approx(cost, rel=1e-5)
        check = setup.prior.check[1](of_unit[None]).mean().item()
        assert row["prior_check_cost_images"] == pytest.approx(check, rel=1e-5)
        assert row["prior_cost_photographs_low"] <= row["prior_cost_photographs_high"]
        assert row["prior_cost_photographs"] < row["prior_cost_noise"]
    # Shuffled pixels have another spectrum; their colours and norm stay.
    assert rows[0]["prior_cost_shuffled"] != rows[0]["prior_cost_images"]


def test_shuffled_images_keep_their_pixels():
    from diversevis.method.prior import _shuffled

    setup = setup_of(*QUICK, "unit=[0,5]")
    x = torch.randn(2, 3, *setup.image_shape)
    shuffled = _shuffled(setup, torch.tensor([0, 1]), x)
    assert not torch.equal(shuffled, x)
    for before, after in zip(x.flatten(0, 1), shuffled.flatten(0, 1), strict=True):
        before, after = (sorted(map(tuple, y.flatten(1).T.tolist())) for y in (before, after))
        assert before == after


# -- what cannot be used --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["prior=tv", "prior.weight=-1"], "prior.weight=-1"),
        (["prior=patches", "prior.stride=9"], "prior.stride=9"),
        (["prior=spectrum", "prior.exponent=1000"], "prior.exponent=1000"),
        (["prior=spectrum", "prior.exponent=nan"], "prior.exponent=nan"),
        (["prior=patches", "prior.file=/nowhere"], "prior.file=/nowhere is not a file"),
        (["prior=pixelcnn"], "prior.file has no default here"),
        (["prior=tv", "prior.check=patch"], "Did you mean patches"),
        (["prior=tv", "prior.photographs=/nowhere"], "prior.photographs=/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_used_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        setup_of(*QUICK, *words)


@pytest.mark.parametrize("layer", ["conv1_1", "conv1_2"])
def test_smallest_fields_have_priors(layer):
    words = ["model=vgg19", "model.weights=random", f"layer={layer}", "unit=0", "n=2",
             "optimizer.steps=4", "optimizer.search_steps=4"]  # fmt: skip
    for prior in ("tv", "patches", "mcgsm", "spectrum"):
        (result,) = visualize(setup_of(*words, f"prior={prior}"), [0])
        if result.metrics["stop"] != "dead":
            assert math.isfinite(result.metrics["prior_cost_images"])
            assert math.isfinite(result.metrics["prior_check_cost_images"])


def test_shipped_marginal_is_that_of_full_gaussians():
    """In float32, whose digits would not do for its variances, against float64."""
    settings = Patches(kind="patches", file=None, stride=4, **COMMON)
    model = read_prior(shipped("patches"), "prior.file").model
    weights, means, covariances = as_gaussians(model)
    kept = torch.zeros(3, 8, 8, dtype=torch.bool)
    kept[:, :5, :5] = True
    kept = kept.flatten()
    x = torch.randn(1, 6, 3, 5, 5) * torch.tensor([1.0, 5, 20, 40, 60, 0.1])[:, None, None, None]
    found = open_prior(settings, view_of(3, 5, 5)).cost(x)[0]
    expected = -log_likelihood(
        weights, means[:, kept], covariances[:, kept][:, :, kept], x[0].double().flatten(1)
    )
    assert torch.allclose(found.double(), expected / 75, rtol=1e-3, atol=1e-3)


def test_costs_in_parts_are_the_same():
    """More images than go through the network at once."""
    whole = setup_of(*QUICK, "unit=[0,5]", "prior=mcgsm")
    parts = dataclasses.replace(whole, batch=2)
    x = render(torch.randn(2, 3, *whole.image_shape), whole.norm).requires_grad_(True)
    for values, expected in zip(
        *(
            [y, *torch.autograd.grad(y.sum(), x)]
            for y in (costs_of(s, s.prior, x) for s in (whole, parts))
        ),
        strict=True,
    ):
        assert torch.allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"sizes": {"colors": 3, "components": 10**9, "factors": 4}}, {"mean": [0.5, 0.5]},
     {"mean": [0.5, 0.5, float("nan")]}, {"record": None}, {"kind": "os.system"}, {"format": 2},
     {"sizes": {"colors": 3, "components": 5, "factors": 5}}],
    ids=str,
)  # fmt: skip
def test_damaged_facts_are_refused(change, mixture_file, tmp_path):
    with safe_open(mixture_file, framework="pt") as file:
        about = json.loads(file.metadata()["prior"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    path = tmp_path / "changed.safetensors"
    about = {name: value for name, value in (about | change).items() if value is not None}
    path.write_bytes(save(tensors, {"prior": json.dumps(about)}))
    with pytest.raises(InputError, match=f"prior.file={path} is no prior"):
        read_prior(path, "prior.file")


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    mixture, path = random_mixture(), tmp_path / "nan.safetensors"
    mixture.means.data[0, 0] = torch.nan
    path.write_bytes(serialize("patches", mixture, MEAN, {}))
    with pytest.raises(InputError, match="not finite"):
        read_prior(path, "prior.file")


def test_files_of_another_kind_are_refused(tmp_path, mixture_file):
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"junk")
    whole = mixture_file.read_bytes()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole[:-100])
    for file in (junk, cut):
        with pytest.raises(InputError, match=f"prior.file={file} is no prior"):
            read_prior(file, "prior.file")
    with pytest.raises(InputError, match="is a prior of kind patches"):
        setup_of(*QUICK, "prior=mcgsm", f"prior.file={mixture_file}")


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_checkpoint_of_the_port_is_read_as_tensors_alone(tmp_path):
    from test_pixelcnn import port_state

    file, trap = tmp_path / "pcnn.pth", tmp_path / "trap"
    torch.save({name: value.float() for name, value in port_state().items()}, file)
    trained = read_prior(file, "prior.file")
    assert (trained.kind, trained.mean) == ("pixelcnn", None)
    words = ["experiment=cadena2018_natural", "model=energy", "layer=complex", "unit=0", "n=3",
             "norm=contrast", "objective.distance=pixels", f"prior.file={file}"]  # fmt: skip
    setup = setup_of(*words)
    x = render(torch.randn(1, 3, *setup.image_shape), setup.norm)
    assert torch.allclose(setup.prior.cost(x)[0], trained.model(x[0]), rtol=1e-4)
    # As published: the sum over pixels, channels and images, in nats.
    assert prior_weight(setup) == pytest.approx(8e-3 * x.numel())
    torch.save({"x": Trap(trap)}, file)
    with pytest.raises(InputError, match="cannot be read as tensors alone"):
        read_prior(file, "prior.file")
    assert not trap.exists()
    torch.save([torch.zeros(2)], file)
    with pytest.raises(InputError, match="holds no state of a model"):
        read_prior(file, "prior.file")


def test_other_channels_are_refused(tmp_path):
    grey = tmp_path / "grey.safetensors"
    grey.write_bytes(serialize("patches", random_mixture(colors=1), (0.449,), {}))
    with pytest.raises(InputError, match="for images of 1 channels.*colors=3"):
        setup_of(*QUICK, "prior=patches", f"prior.file={grey}")
    settings = Patches(kind="patches", file=str(grey), stride=4, **COMMON)
    assert open_prior(settings, view_of(1, 9, 9)).cost(torch.randn(1, 2, 1, 9, 9)).shape == (1, 2)
    assert open_prior(dataclasses.replace(settings, file=None), view_of(1, 5, 9)) is not None
    for kind, colors, expected in [("patches", 3, "mcgsm"), ("tv", 3, "patches"),
                                   ("patches", 1, "tv"), ("tv", 4, "spectrum")]:  # fmt: skip
        shared = {**COMMON, "check": "auto"}
        asked = (
            TotalVariation(kind="tv", **shared)
            if kind == "tv"
            else Patches(kind="patches", file=None, stride=4, **shared)
        )
        assert open_prior(asked, view_of(colors, 9, 9)).check[0] == expected
    with pytest.raises(InputError, match="Use prior=tv or prior=spectrum"):
        open_prior(settings, view_of(4, 9, 9))
    assert open_prior(TotalVariation(kind="tv", **COMMON), view_of(4, 9, 9)) is not None


def test_configs_of_earlier_versions_have_no_prior():
    from diversevis.config.compose import completed, plain

    config = plain(compose_config(QUICK))
    del config["prior"]
    assert completed(config)["prior"] == {"kind": "none"}
    assert experiment_of(compose_config(QUICK)).prior.kind == "none"


def test_record_of_a_prior_survives_its_file(mixture_file):
    trained = read_prior(mixture_file, "prior.file")
    assert trained.record == {"made": "by hand"}
    assert trained.mean == MEAN
    assert json.dumps(trained.model.sizes) == '{"colors": 3, "components": 5, "factors": 4}'
