import math
from dataclasses import replace

import pytest
import torch

from diversevis.method.alone import live_start
from diversevis.method.images import render
from diversevis.method.optimize.adam import Adam
from diversevis.method.optimize.annealed import Annealed
from diversevis.method.optimize.descend import steps_of_rivals
from diversevis.method.optimize.loop import Problem
from diversevis.method.optimize.schedule import Schedule
from diversevis.method.optimize.sphere import Sphere

ADAM = Adam(
    kind="adam", learning_rate=0.1, beta1=0.9, beta2=0.999, epsilon=1e-8, steps=500,
    search_steps=1, patience=20, smoothing=0.9,
)  # fmt: skip
SPHERE = Sphere(
    kind="sphere", learning_rate=1.0, momentum=0.8, steps=200, search_steps=1, tolerance=1e-4,
    emphasis=4.0, softness=0.03,
)  # fmt: skip
ANNEALED = Annealed(
    kind="annealed", learning_rate=0.3, beta1=0.9, beta2=0.999, steps=200, search_steps=1,
    emphasis=4.0, softness=0.03,
)  # fmt: skip
BOTH = pytest.mark.parametrize("optimizer", [ADAM, SPHERE], ids=["adam", "sphere"])
NORM = 7.0


def noise(units, images=2, seed=0):
    return torch.randn(units, images, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


def problem(evaluate, precondition=lambda gradient: gradient, recorded=0):
    def every_row(x, rows, *, emphasis, softness):
        loss = evaluate(x, rows)
        return {"loss": loss, "descent": loss, "twice": 2 * loss}

    return Problem(
        evaluate=every_row,
        render=lambda raw: render(raw, NORM),
        precondition=precondition,
        recorded=recorded,
    )


def towards(goals):
    """Smallest, at -NORM, where every image of a unit points to its goal."""
    unit = goals / goals.flatten(1).norm(dim=1)[:, None, None, None]
    return lambda x, rows: -(x * unit[rows][:, None]).sum((2, 3, 4)).mean(1)


@BOTH
def test_optimizer_reaches_the_best_image(optimizer):
    """Closed form: the image along the goal, at the norm."""
    goals = noise(3, 1, seed=1)[:, 0]
    result = optimizer(problem(towards(goals)), noise(3))
    cosines = torch.cosine_similarity(result.images.flatten(2), goals.flatten(1)[:, None], dim=2)
    assert cosines.min().item() > 0.999
    assert torch.allclose(result.images.flatten(2).norm(dim=2), torch.full((3, 2), NORM))
    assert result.stop == ("converged",) * 3
    assert max(result.steps) < optimizer.steps
    steps = min(result.steps)
    assert torch.equal(result.trace["twice"][:steps], 2 * result.trace["loss"][:steps])
    assert result.trace["loss"][steps - 1].tolist() == pytest.approx([-NORM] * 3, rel=2e-3)


def test_annealed_reaches_the_best_image():
    goals = noise(3, 1, seed=1)[:, 0]
    result = ANNEALED(problem(towards(goals)), noise(3))
    cosines = torch.cosine_similarity(result.images.flatten(2), goals.flatten(1)[:, None], dim=2)
    assert cosines.min().item() > 0.999
    assert (result.steps, result.stop) == ((200,) * 3, ("annealed",) * 3)
    still = ANNEALED(problem(lambda x, rows: 0 * x.sum((1, 2, 3, 4))), noise(1))
    assert torch.allclose(still.images, render(noise(1), NORM))
    first = ANNEALED.schedule(1)
    assert (first["emphasis"], first["softness"]) == (4.0, 0.03)
    assert ANNEALED.schedule(121)["emphasis"] == 1  # after 60 % of the steps


@BOTH
@pytest.mark.parametrize("kind", ["sqrt", "none"])
def test_where_each_optimizer_comes_to_rest(optimizer, kind):
    """The published order comes to rest where the filtered gradient is along the image, the
    sphere's where the gradient itself is: a bias of the one, none of the other."""
    from diversevis.method.images import precondition

    goal = noise(1, 1, seed=1)[:, 0]
    weighted = problem(towards(goal), lambda gradient: precondition(gradient, kind))
    found = replace(optimizer, steps=800)(weighted, noise(1)).images[0, 0]
    rest = precondition(goal[None], kind)[0, 0] if optimizer is ADAM else goal[0]
    cosine = torch.cosine_similarity(found.flatten(), rest.flatten(), dim=0)
    assert cosine.item() > 0.999


@BOTH
def test_units_are_optimized_independently(optimizer):
    """Not even when one has left the batch: the easy unit stops early."""
    goals, start = noise(3, 1, seed=1)[:, 0], noise(3)
    start[1] = goals[1]
    together = optimizer(problem(towards(goals)), start)
    assert together.steps[1] < together.steps[0]
    for unit in range(3):
        one = slice(unit, unit + 1)
        alone = optimizer(problem(towards(goals[one])), start[one])
        assert torch.allclose(alone.images, together.images[one], atol=1e-5)
        assert alone.steps == together.steps[one]
        assert alone.stop == together.stop[one]
        length = alone.steps[0]
        assert torch.allclose(
            alone.trace["loss"][:length, 0], together.trace["loss"][:length, unit]
        )
        assert together.trace["loss"][length:, unit].isnan().all()


@BOTH
def test_stopped_units_leave_the_batch(optimizer):
    goals, start, sizes = noise(3, 1, seed=1)[:, 0], noise(3), []
    start[1] = goals[1]

    def evaluate(x, rows):
        sizes.append(len(x))
        assert len(rows) == len(x)
        return towards(goals)(x, rows)

    told = []
    result = optimizer(
        problem(evaluate), start, lambda step, rows, x, terms: told.append(list(rows))
    )
    assert sizes[0] == 3
    assert 1 not in told[-1]
    assert sizes == [len(rows) for rows in told] == sorted(sizes, reverse=True)
    assert sizes.index(2) - result.steps[1] < 10


def test_adam_equals_torchs():
    """Against torch's own Adam and autograd through the norm."""
    goals, start = noise(2, 1, seed=1)[:, 0], noise(2)
    result = replace(ADAM, steps=30)(problem(towards(goals)), start)
    raw = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([raw], lr=ADAM.learning_rate)
    for step in range(30):
        adam.zero_grad()
        loss = towards(goals)(render(raw, NORM), torch.arange(2))
        assert torch.allclose(loss.detach(), result.trace["loss"][step], rtol=1e-4)
        loss.sum().backward()
        adam.step()


def test_stopping_rule_is_the_published():
    """Against the rule written out: stop when the 0.9-average of the loss has not improved for
    `patience` steps."""
    losses = [
        math.sin(step / 7) * math.exp(-step / 40) - min(step, 60) / 100 for step in range(400)
    ]
    calls = iter(losses)
    result = ADAM(problem(lambda x, rows: next(calls) + 0 * x.flatten(1).sum(1)), noise(1))
    average, best, improved = losses[0], math.inf, 0
    for step, loss in enumerate(losses, start=1):
        average = loss if step == 1 else 0.9 * average + 0.1 * loss
        if average < best:
            best, improved = average, step
        if step - improved >= 20:
            break
    assert result.stop == ("converged",)
    assert result.steps == (step,)


@BOTH
def test_best_iterate_is_returned(optimizer):
    seen = []

    def evaluate(x, rows):
        seen.append(x.detach().clone())
        return abs(len(seen) - 4) + 0.001 * x.flatten(1).sum(1)

    result = replace(optimizer, steps=12)(problem(evaluate), noise(1))
    assert torch.equal(result.images, seen[3])


@BOTH
def test_last_step_and_divergence(optimizer):
    few = replace(optimizer, steps=3)(problem(towards(noise(1, 1, seed=1)[:, 0])), noise(1))
    assert few.stop == (("max_steps" if optimizer is ADAM else "annealed"),)
    assert few.steps == (3,)
    calls = []

    def explode(x, rows):
        calls.append(0)
        loss = towards(noise(2, 1, seed=1)[:, 0])(x, rows)
        return torch.where((rows == 0) & (len(calls) > 5), torch.log(loss - 1e6), loss)

    result = optimizer(problem(explode), noise(2))
    assert result.stop == ("diverged", "converged")
    assert result.steps[0] == 6
    assert result.images.isfinite().all()


def test_large_image_without_gradient_stays():
    """The step is relative to the norm, which must not turn a gradient of 0 into NaN."""
    whole = Problem(
        evaluate=lambda x, rows, **_: {"loss": 0 * x.flatten(1).sum(1), "descent": 0 * x.flatten(1).sum(1)},
        render=lambda raw: render(raw, 1000.0), precondition=lambda gradient: gradient,
    )  # fmt: skip
    result = replace(SPHERE, steps=20, tolerance=1e-12)(whole, noise(2))
    assert result.stop == ("converged",) * 2
    assert torch.allclose(result.images, render(noise(2), 1000.0))


@BOTH
def test_image_without_gradient_stays(optimizer):
    goals = noise(1, 1, seed=1)[:, 0]

    def evaluate(x, rows):
        moving = x * torch.tensor([1.0, 0.0])[None, :, None, None, None]
        return towards(goals)(moving, rows)

    result = replace(optimizer, steps=60)(problem(evaluate), noise(1))
    assert result.stop[0] != "diverged"
    assert torch.allclose(result.images[0, 1], render(noise(1), NORM)[0, 1], atol=1e-5)
    cosine = torch.cosine_similarity(result.images[0, 0].flatten(), goals[0].flatten(), dim=0)
    assert cosine.item() > 0.9


@BOTH
def test_ctrl_c_returns_the_best_so_far(optimizer):
    def listener(step, rows, x, terms):
        if step == 7:
            raise KeyboardInterrupt

    goal = noise(1, 1, seed=1)[:, 0]
    result = optimizer(problem(towards(goal)), noise(1), listener)
    assert result.interrupted
    assert result.stop == ("interrupted",)
    assert result.steps == (7,)
    losses = result.trace["loss"][:, 0]
    assert losses[-1] < losses[0]
    assert towards(goal)(result.images, torch.tensor([0])).item() == losses.min().item()


def test_worse_half_of_rivals_stops():
    """Two units of five images alone: the worst leave at every eighth of the steps, the best
    image of each unit goes as it would go without rivals."""
    goals = noise(10, 1, seed=3)[:, 0] * torch.rand(10, 1, 1, 1).add(0.5)

    def evaluate(x, rows, *, emphasis, softness):
        at_work.append(rows.tolist())
        loss = -(x[:, 0] * goals[rows]).sum((1, 2, 3))
        return {"loss": loss, "descent": loss}

    start, results, seen = noise(10, 1), [], []
    for rivals in (1, 5):
        at_work: list[list[int]] = []
        whole = Problem(evaluate=evaluate, render=lambda raw: render(raw, NORM),
                        precondition=lambda gradient: gradient, rivals=rivals)  # fmt: skip
        results.append(replace(SPHERE, steps=40, tolerance=1e-12)(whole, start))
        seen.append(at_work)
    assert [len(rows) for rows in seen[0]] == [10] * 40
    assert [len(rows) for rows in seen[1]] == [10] * 5 + [6] * 5 + [4] * 5 + [2] * 25
    assert sum(len(rows) for rows in seen[1]) == 2 * steps_of_rivals(5, 40)
    for row in seen[1][-1]:
        assert torch.equal(results[1].images[row], results[0].images[row])
    losses = results[0].trace["loss"]
    best_after_five = [
        5 * unit + losses[:5, 5 * unit :][:, :5].amin(0).argsort()[:3] for unit in (0, 1)
    ]
    assert sorted(torch.cat(best_after_five).tolist()) == seen[1][5]


def test_sphere_guidance_fades_out():
    heard = []

    def evaluate(x, rows, *, emphasis, softness):
        heard.append((emphasis, softness))
        loss = x.flatten(1).sum(1)
        return {"loss": loss, "descent": loss}

    whole = Problem(evaluate=evaluate, render=lambda raw: render(raw, NORM),
                    precondition=lambda gradient: gradient)  # fmt: skip
    replace(SPHERE, steps=100, tolerance=1e-12)(whole, noise(1))
    assert heard[0] == (4.0, 0.03)
    emphases, softnesses = zip(*heard, strict=True)
    assert list(emphases) == sorted(emphases, reverse=True)
    assert emphases[40] == 1 + 3 * 0.5**2  # a parabola that ends after 80 % of the steps
    assert emphases[79] > 1
    assert emphases[80:] == (1.0,) * 20
    assert softnesses[-1] == pytest.approx(0.0003)


def test_numbers_of_a_step_are_looked_up():
    """Those that change as float32, which torch makes of a number that multiplies a tensor."""
    schedule = Schedule(lambda step: {"pace": 0.1 * step, "same": 0.3}, 3, torch.device("cpu"))
    now = schedule.at(torch.tensor([2]))
    assert (now["same"], int(now["step"])) == (0.3, 2)
    assert torch.equal(now["pace"], torch.tensor(0.2))
    assert torch.equal(now["pace"] * torch.ones(3), 0.2 * torch.ones(3))
    only = Schedule(SPHERE.schedule, 1, torch.device("cpu")).at(torch.tensor([1]))
    assert only["emphasis"] == 4.0  # a single step changes nothing


def draws_per_unit(*units):
    """Noise whose first value says whether the unit answers to it."""

    def draw(batches):
        source = iter(batches)
        return lambda: torch.tensor(next(source)).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).clone()

    return [draw(batches) for batches in units]


def positive(raw, units):
    return raw[:, :, 0, 0, 0].clamp(min=0)


def test_images_without_gradient_are_drawn_again():
    draws = draws_per_unit([[1.0, -1.0, 2.0], [-1.0, 3.0, 4.0], [9.0, 9.0, 9.0]], [[5.0, 6.0, 7.0]])
    start, alive = live_start(draws, positive, rounds=5)
    assert start[:, :, 0, 0, 0].tolist() == [[1, 2, 3], [5, 6, 7]]
    assert alive.tolist() == [True, True]


def test_live_images_are_copied_for_rare_units():
    draws = draws_per_unit([[-1.0, 1.0]] + [[-1.0, -1.0]] * 4, [[-1.0, -2.0]] * 4)
    start, alive = live_start(draws, positive, rounds=3)
    assert start[0, :, 0, 0, 0].tolist() == pytest.approx([1, 0.9])
    assert alive.tolist() == [True, False]
    assert start[1, :, 0, 0, 0].tolist() == [-1, -2]
