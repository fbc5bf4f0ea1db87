import math

import pytest
import torch
from torch.nn import functional

from diversevis.errors import InputError
from diversevis.priors.logistics import log_bin, log_components, log_likelihood
from diversevis.priors.pixelcnn import PixelCNN
from diversevis.priors.pixelcnn_port import from_port

SIZES = [(colors, stages) for colors in (3, 1) for stages in (1, 2, 3)]


def random_model(colors=3, stages=2, *, seed=0, **sizes):
    """All of its weights are random, so that nothing it could see is left unseen."""
    sizes = {"channels": 4, "blocks": 1, "mixtures": 2} | sizes
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PixelCNN(colors=colors, stages=stages, **sizes).double()
        for parameter in model.parameters():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return model


def random_levels(*shape, seed=0):
    """Values of grey levels in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator).double() / 127.5 - 1


def conditionals(values, outputs):
    """Log-probability of every colour given earlier pixels and the pixel's earlier colours."""
    logits, logs = log_components(values, outputs)
    joint = torch.logsumexp(logits[:, None] + logs.cumsum(1), 2)
    earlier = torch.cat([torch.logsumexp(logits, 1)[:, None], joint[:, :-1]], 1)
    return joint - earlier


def in_order(x):
    """Pixels in the order of reading, the colours of a pixel one after the other."""
    return x.movedim(1, -1).flatten(1)


@pytest.mark.parametrize(("colors", "stages"), SIZES)
@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_nothing_later_is_seen(colors, stages, size):
    """Of a copy of the image per pixel and colour, only that one's term is differentiated."""
    model = random_model(colors, stages)
    count = colors * math.prod(size)
    x = 100 * random_levels(1, colors, *size).expand(count, -1, -1, -1)
    x = x.clone().requires_grad_()
    values = model.values(x)
    terms = in_order(conditionals(values, model.outputs(values)))
    (gradient,) = torch.autograd.grad(terms.diagonal().sum(), x)
    gradient = in_order(gradient)
    assert (gradient.triu(1) == 0).all()
    assert (gradient.diagonal() != 0).all()
    # The colours before in the same pixel, and the pixels to the left, above and above right.
    seen = gradient.view(*size, colors, *size, colors) != 0
    for row, column in [(0, 1), (1, 0), (2, 3), (4, 6), (size[0] - 1, size[1] - 2)]:
        for color in range(colors):
            own = seen[row, column, color]
            assert own[row, column, :color].all()
            assert own[max(0, row - 1) : row, max(0, column - 1) : column + 2].all()
            assert own[row, max(0, column - 1) : column].all()


@pytest.mark.parametrize(("colors", "stages"), SIZES)
def test_parameters_of_a_pixel_do_not_depend_on_it(colors, stages):
    model = random_model(colors, stages)
    values = random_levels(1, colors, 8, 8).expand(64, -1, -1, -1).clone().requires_grad_()
    outputs = model.outputs(values).sum(1).flatten(1)
    (gradient,) = torch.autograd.grad(outputs.diagonal().sum(), values)
    assert (gradient.abs().sum(1).flatten(1).triu() == 0).all()


@pytest.mark.parametrize("colors", [3, 1])
def test_probabilities_of_all_levels_sum_to_one(colors):
    model = random_model(colors)
    values = random_levels(1, colors, 3, 5)
    outputs = model.outputs(values).expand(256, -1, -1, -1)
    for color in range(colors):
        every = values.repeat(256, 1, 1, 1)
        every[:, color] = (torch.arange(256).double() / 127.5 - 1)[:, None, None]
        total = conditionals(every, outputs)[:, color].exp().sum(0)
        torch.testing.assert_close(total, torch.ones(3, 5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("red", [0, 100, 255])
def test_probabilities_of_colours_sum_to_that_of_the_first(red):
    """Over all 256 x 256 values of green and blue."""
    outputs = random_model(mixtures=3).outputs(random_levels(1, 3, 2, 2))[:, :, 1:, 1:]
    levels = torch.arange(256).double() / 127.5 - 1
    green, blue = torch.meshgrid(levels, levels, indexing="ij")
    every = torch.stack([levels[red].expand(256, 256), green, blue])[None]
    total = torch.logsumexp(log_likelihood(every, outputs.expand(-1, -1, 256, 256)).flatten(), 0)
    logits, logs = log_components(every[:, :, :1, :1], outputs)
    first = torch.logsumexp(logits + logs[:, 0], 1) - torch.logsumexp(logits, 1)
    assert total.item() == pytest.approx(first.item(), rel=1e-12)


@pytest.mark.parametrize(("colors", "stages"), SIZES)
def test_image_is_the_product_of_its_pixels(colors, stages):
    """Of pixels that are predicted one by one, when those to come are not known yet."""
    model = random_model(colors, stages)
    values = random_levels(1, colors, 3, 5)
    total = 0.0
    for pixel in range(15):
        row, column = divmod(pixel, 5)
        known = torch.zeros_like(values)
        known.flatten(2)[:, :, :pixel] = values.flatten(2)[:, :, :pixel]
        outputs = model.outputs(known)[:, :, row : row + 1, column : column + 1]
        own = values[:, :, row : row + 1, column : column + 1]
        total += conditionals(own, outputs).sum().item()
    assert model(127.5 * values).item() == pytest.approx(-total / (15 * colors), rel=1e-10)


def test_probability_of_a_level():
    """Of the middle one of 255 of width 2/255 under a logistic of scale s it is tanh(1/510/s)."""
    shape = (1, 1, 1, 1, 1)
    for scale in (0.01, 0.1, 1.0):
        log_scale = torch.full(shape, math.log(scale), dtype=torch.float64)
        found = log_bin(torch.zeros(shape).double(), torch.zeros(shape).double(), log_scale)
        assert found.exp().item() == pytest.approx(math.tanh(1 / 510 / scale), rel=1e-12)


def test_offset_and_scale():
    """Of colours around their mean (60, 70, 80), for a network of values between 0 and 255."""
    model = random_model()
    x = torch.tensor([-60.0, 57.5, 400.0]).double()[:, None, None].expand(1, -1, 4, 4)
    model.offset.copy_(torch.tensor([60.0, 70, 80])[:, None, None] - 127.5)
    values = model.values(x)
    assert values[0, :, 0, 0].tolist() == pytest.approx([-1.0, 0.0, 1.0])


@pytest.mark.parametrize(("colors", "stages", "size"), [(3, 3, (5, 7)), (1, 2, (4, 5))])
def test_gradient_equals_differences(colors, stages, size):
    model = random_model(colors, stages).folded()
    x = (100 * random_levels(2, colors, *size)).requires_grad_()
    # In a random direction; steps are grey levels.
    assert torch.autograd.gradcheck(model, x, eps=1e-4, atol=1e-9, rtol=1e-5, fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extremes_are_finite(dtype):
    numbers = torch.tensor([-1e6, -100.0, -7, -1, 0, 1, 30, 100, 1e6], dtype=dtype)
    means, log_scales = (x.flatten() for x in torch.meshgrid(numbers, numbers, indexing="ij"))
    values = torch.tensor([-1.0, -0.9995, -0.999, 0, 0.999, 0.9995, 1], dtype=dtype)
    shape = (len(values), 1, len(means), 1, 1)
    arguments = [
        x.expand(shape).clone().requires_grad_()
        for x in (means[:, None, None], log_scales.clamp(-7, 30)[:, None, None])
    ]
    own = values[:, None, None, None, None].clone().requires_grad_()
    logs = log_bin(own, *arguments)
    assert logs.isfinite().all()
    assert (logs <= 0).all()
    for gradient in torch.autograd.grad(logs.sum(), [own, *arguments]):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("colors", [3, 1])
def test_extreme_images_have_finite_costs_and_gradients(dtype, colors):
    model = random_model(colors, 3).to(dtype)
    levels = torch.tensor([-1e30, -1e4, -127.5, 0, 127.5, 1e4, 1e30], dtype=dtype)
    x = levels[:, None, None, None].repeat(1, colors, 5, 6)
    x[:, :, ::2] *= -1
    for factor in (1, 1e4):  # by which the network's outputs are larger: improbable images
        model.output.bias.data *= factor
        model.output.parametrizations.weight.original0.data *= factor
        shown = x.clone().requires_grad_()
        costs = model(shown)
        costs.sum().backward()
        assert costs.isfinite().all()
        assert (costs > 0).all()
        assert shown.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("colors", "stages"), SIZES)
def test_folded_model_is_the_same_function(colors, stages):
    model = random_model(colors, stages)
    folded = model.folded()
    x = (120 * random_levels(2, colors, 6, 9)).requires_grad_()
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=0)
    gradients = (torch.autograd.grad(f(x).sum(), x)[0] for f in (folded, model))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-14)
    assert not any("parametrizations" in name for name in folded.state_dict())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    again = PixelCNN(**model.sizes).double().folded()
    again.load_state_dict(folded.state_dict())
    assert torch.equal(again(x), folded(x))


@pytest.mark.parametrize(("colors", "stages"), SIZES)
def test_images_do_not_change_one_another(colors, stages):
    """Not even in the rounding of float32, which would let runs of several units drift apart."""
    model = random_model(colors, stages).float().folded()
    x = (100 * random_levels(12, colors, 11, 13)).float()

    def costs_and_gradients(x):
        x = x.clone().requires_grad_()
        costs = model(x)
        return costs.detach(), *torch.autograd.grad(costs.sum(), x)

    costs, gradients = costs_and_gradients(x)
    for images in (slice(0, 2), slice(3, 6), slice(1, 12)):
        some_costs, some_gradients = costs_and_gradients(x[images])
        assert torch.equal(some_costs, costs[images])
        assert torch.equal(some_gradients, gradients[images])


@pytest.mark.parametrize(("colors", "stages"), SIZES)
def test_begins_near_log_256(colors, stages):
    """Of noise and of flat images: about as if all grey levels were equally likely."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelCNN(colors=colors, channels=24, blocks=1, mixtures=5, stages=stages)
    x = 40 * torch.randn(32, colors, 12, 12, generator=torch.Generator().manual_seed(0))
    for images in (x, x[:, :, :1, :1].expand_as(x)):
        assert model(images).mean().item() == pytest.approx(math.log(256), abs=0.4)


def test_training_learns_images_of_one_colour():
    """All but the first pixel can be told from their neighbours."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = PixelCNN(colors=3, channels=8, blocks=1, mixtures=3, stages=1)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(80):
        x = 40 * torch.randn(16, 3, 1, 1, generator=generator).expand(-1, -1, 6, 6)
        loss = model.loss(x, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(5.4, abs=0.2)
    assert sum(losses[-10:]) / 10 < 4


def test_dropout_is_of_training_alone_and_of_its_generator():
    model = random_model()
    dropping = PixelCNN(**model.sizes, dropout=0.5).double()
    dropping.load_state_dict(model.state_dict())
    x = 100 * random_levels(2, 3, 6, 6)
    assert torch.equal(dropping(x), model(x))
    assert torch.equal(model.loss(x, torch.Generator()), model(x).mean())
    losses = [dropping.loss(x, torch.Generator().manual_seed(s)).item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] != model(x).mean().item()


# The port, of its state alone: an independent reading of its architecture.


def port_shapes(filters, blocks, mixtures, colors):
    """Shape of the weights of every layer."""
    shapes = {
        "u_init.conv": (filters, colors + 1, 2, 3),
        "ul_init.0.conv": (filters, colors + 1, 1, 3),
        "ul_init.1.conv": (filters, colors + 1, 2, 1),
        "nin_out.lin_a": ((3 if colors == 1 else 10) * mixtures, filters),
    }
    for step in range(2):
        for change, kind in (("downsize", "conv"), ("upsize", "deconv")):
            shapes[f"{change}_u_stream.{step}.{kind}"] = (filters, filters, 2, 3)
            shapes[f"{change}_ul_stream.{step}.{kind}"] = (filters, filters, 2, 2)
    for way in ("up", "down"):
        for stage in range(3):
            for block in range(blocks + (way == "down" and stage > 0)):
                for stream, columns, skips in (("u", 3, 0), ("ul", 2, 1)):
                    name = f"{way}_layers.{stage}.{stream}_stream.{block}"
                    skips += way == "down"
                    shapes[f"{name}.conv_input.conv"] = (filters, 2 * filters, 2, columns)
                    shapes[f"{name}.conv_out.conv"] = (2 * filters, 2 * filters, 2, columns)
                    if skips:
                        shapes[f"{name}.nin_skip.lin_a"] = (filters, 2 * skips * filters)
    return shapes


def port_state(filters=8, blocks=1, mixtures=2, colors=3, *, newer=False, prefix="module."):
    generator = torch.Generator().manual_seed(0)
    length, direction = (
        (f"parametrizations.weight.original{i}" for i in (0, 1)) if newer else ("weight_g", "weight_v")
    )  # fmt: skip
    state = {}
    for name, shape in port_shapes(filters, blocks, mixtures, colors).items():
        lengths = (shape[0], *[1] * (len(shape) - 1))
        outputs = shape[1] if name.endswith("deconv") else shape[0]
        state[f"{prefix}{name}.{length}"] = 0.5 + torch.rand(lengths, generator=generator)
        state[f"{prefix}{name}.{direction}"] = torch.randn(shape, generator=generator)
        state[f"{prefix}{name}.bias"] = 0.3 * torch.randn(outputs, generator=generator)
    return state


class Port:
    """The port's forward pass on values in [-1, 1], in float64."""

    def __init__(self, state, blocks):
        self.state = {name.removeprefix("module."): x.double() for name, x in state.items()}
        self.blocks = blocks

    def layer(self, name):
        v, g = self.state[name + ".weight_v"], self.state[name + ".weight_g"]
        length = v.flatten(1).norm(dim=1).view(g.shape)
        return v / length * g, self.state[name + ".bias"]

    def convolve(self, name, x, pad, stride=1):
        return functional.conv2d(functional.pad(x, pad), *self.layer(name + ".conv"), stride)

    def linear(self, name, x):
        weight, bias = self.layer(name + ".lin_a")
        return torch.einsum("oi,nihw->nohw", weight, x) + bias[:, None, None]

    def grow(self, name, x, crop):
        weight, bias = self.layer(name + ".deconv")
        y = functional.conv_transpose2d(x, weight, bias, stride=2, output_padding=1)
        height, width = 2 * x.shape[2], 2 * x.shape[3]
        return y[:, :, :height, crop : crop + width]

    def block(self, name, x, a=None):
        pad = (1, 1, 1, 0) if ".u_stream" in name else (1, 0, 1, 0)
        hidden = self.convolve(name + ".conv_input", both_signs(x), pad)
        if a is not None:
            hidden = hidden + self.linear(name + ".nin_skip", both_signs(a))
        step, gate = self.convolve(name + ".conv_out", both_signs(hidden), pad).chunk(2, 1)
        return x + step * torch.sigmoid(gate)

    def __call__(self, values):
        x = torch.cat([values, torch.ones_like(values[:, :1])], 1)

        def moved(x, down, right):
            x = torch.roll(x, (down, right), (2, 3))
            x[:, :, :down] = 0
            x[:, :, :, :right] = 0
            return x

        us = [moved(self.convolve("u_init", x, (1, 1, 1, 0)), 1, 0)]
        uls = [
            moved(self.convolve("ul_init.0", x, (1, 1, 0, 0)), 1, 0)
            + moved(self.convolve("ul_init.1", x, (0, 0, 1, 0)), 0, 1)
        ]
        for stage in range(3):
            for block in range(self.blocks):
                us.append(self.block(f"up_layers.{stage}.u_stream.{block}", us[-1]))
                uls.append(self.block(f"up_layers.{stage}.ul_stream.{block}", uls[-1], us[-1]))
            if stage < 2:
                us.append(self.convolve(f"downsize_u_stream.{stage}", us[-1], (1, 1, 1, 0), 2))
                uls.append(self.convolve(f"downsize_ul_stream.{stage}", uls[-1], (1, 0, 1, 0), 2))
        u, ul = us.pop(), uls.pop()
        for stage in range(3):
            for block in range(self.blocks + (stage > 0)):
                u = self.block(f"down_layers.{stage}.u_stream.{block}", u, us.pop())
                kept = torch.cat([u, uls.pop()], 1)
                ul = self.block(f"down_layers.{stage}.ul_stream.{block}", ul, kept)
            if stage < 2:
                u = self.grow(f"upsize_u_stream.{stage}", u, 1)
                ul = self.grow(f"upsize_ul_stream.{stage}", ul, 0)
        assert not us
        assert not uls
        return self.linear("nin_out", functional.elu(ul))


def both_signs(x):
    return functional.elu(torch.cat([x, -x], 1))


def port_cost(values, outputs, mixtures):
    """Nats per pixel and channel, pixel by pixel and by the difference of two sigmoids."""
    colors = values.shape[1]
    logits = outputs[:, :mixtures]
    rest = outputs[:, mixtures:].unflatten(1, (colors, -1))
    probability = torch.softmax(logits, 1)
    for color in range(colors):
        means, log_scales, coefficients = (
            rest[:, :, part * mixtures : (part + 1) * mixtures] for part in (0, 1, 2)
        )
        mean, inverse = means[:, color], torch.exp(-log_scales[:, color].clamp(min=-7))
        own, c = values[:, color, None], torch.tanh(coefficients)
        if color == 1:
            mean = mean + c[:, 0] * values[:, 0, None]
        if color == 2:
            mean = mean + c[:, 1] * values[:, 0, None] + c[:, 2] * values[:, 1, None]
        upper = torch.where(own > 0.999, 1, torch.sigmoid((own + 1 / 255 - mean) * inverse))
        lower = torch.where(own < -0.999, 0, torch.sigmoid((own - 1 / 255 - mean) * inverse))
        probability = probability * (upper - lower)
    return -probability.sum(1).log().mean((1, 2)) / colors


@pytest.mark.parametrize("colors", [3, 1])
@pytest.mark.parametrize("blocks", [1, 2])
def test_port_is_the_same_function(blocks, colors):
    state = port_state(blocks=blocks, colors=colors)
    model = from_port(state).double()
    assert model.sizes == {
        "colors": colors, "channels": 8, "blocks": blocks, "mixtures": 2, "stages": 3,
    }  # fmt: skip
    values = 0.9 * random_levels(2, colors, 8, 12)
    values[:, :, 3:5, 4:7], values[:, :, 2, 2] = 1, -1
    expected = Port(state, blocks)(values)
    torch.testing.assert_close(model.outputs(values), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        model(128 * values), port_cost(values, expected, 2), rtol=0, atol=1e-10
    )


def test_port_of_other_versions_and_without_prefix():
    """Loading leaves torch's generator as it was."""
    before = torch.get_rng_state()
    models = [
        from_port(port_state(newer=newer, prefix=prefix))
        for newer in (False, True)
        for prefix in ("module.", "")
    ]
    assert torch.equal(torch.get_rng_state(), before)
    x = 100 * random_levels(2, 3, 8, 8).float()
    for model in models:
        assert torch.equal(model(x), models[0](x))


@pytest.mark.parametrize(
    "name",
    [
        "u_init.conv.weight_v", "nin_out.lin_a.weight_v", "nin_out.lin_a.bias",
        "up_layers.0.u_stream.0.conv_input.conv.bias", "upsize_ul_stream.1.deconv.weight_g",
        "down_layers.2.ul_stream.1.nin_skip.lin_a.weight_v",
    ],
)  # fmt: skip
def test_port_without_a_tensor_is_refused(name):
    state = port_state()
    del state["module." + name]
    with pytest.raises(InputError, match=rf"it has no tensor {name}\."):
        from_port(state)


def test_port_with_another_tensor_is_refused():
    state = port_state() | {"module.up_layers.3.u_stream.0.conv_out.conv.bias": torch.zeros(16)}
    with pytest.raises(
        InputError, match=r"has a tensor up_layers\.3\.u_stream\.0\.conv_out\.conv\.bias, "
    ):
        from_port(state)
    with pytest.raises(InputError, match=r"it has no tensor u_init\.conv\.weight_v\."):
        from_port({"module.epoch": torch.zeros(())})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("u_init.conv.weight_v", (8, 3, 2, 3), r"\(8, 3, 2, 3\), whose second number must be 2"),
        ("u_init.conv.weight_v", (8,), r"\(8,\), whose second number must be 2"),
        ("nin_out.lin_a.weight_v", (21, 8), r"\(21, 8\), whose first number must be a multiple of 10"),
        ("nin_out.lin_a.weight_v", (), r"\(\), whose first number must be a multiple of 10"),
        ("ul_init.1.conv.weight_v", (8, 4, 1, 2), r"\(8, 4, 1, 2\) instead of \(8, 4, 2, 1\)"),
        ("up_layers.1.ul_stream.0.nin_skip.lin_a.weight_g", (1, 8), r"\(1, 8\) instead of \(8, 1\)"),
    ],
)  # fmt: skip
def test_port_with_another_shape_is_refused(name, shape, message):
    state = port_state() | {"module." + name: torch.zeros(shape)}
    with pytest.raises(InputError, match=f"its tensor {name} has shape {message}"):
        from_port(state)
