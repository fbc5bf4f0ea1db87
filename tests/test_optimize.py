import math

import pytest
import torch

from diversevis.optimize import Adam, live_start

ADAM = Adam(
    learning_rate=0.1, beta1=0.9, beta2=0.999, epsilon=1e-8, steps=500, patience=20, smoothing=0.9
)


def raw_of(values):
    """Unit by unit, one image of one grey pixel."""
    return torch.tensor(values).reshape(-1, 1, 1, 1, 1).expand(-1, 1, 3, 1, 1).clone()


def quadratic(goals):
    def evaluate(raw):
        loss = (raw - goals).square().flatten(1).mean(1).clamp(min=1e-6)  # flat: it can converge
        return {"loss": loss, "twice": 2 * loss}

    return evaluate


def test_it_finds_the_minimum_of_each_unit_and_says_why_it_stopped():
    goals = raw_of([1.0, -2.0, 30.0])
    result = ADAM(quadratic(goals), raw_of([0.0, 0.0, 0.0]))
    assert result.stop[:2] == ("converged", "converged")
    assert torch.allclose(result.raw[:2], goals[:2], atol=1e-3)
    assert max(result.steps[:2]) < 500
    assert torch.equal(result.trace["twice"][:5], 2 * result.trace["loss"][:5])


def test_units_do_not_know_of_one_another():
    goals, start = raw_of([1.0, -2.0, 0.5]), raw_of([0.0, 3.0, 0.5])
    together = ADAM(quadratic(goals), start)
    for unit in range(3):
        one = slice(unit, unit + 1)
        alone = ADAM(quadratic(goals[one]), start[one])
        assert torch.equal(alone.raw, together.raw[one])
        assert alone.steps == together.steps[one]
        assert alone.stop == together.stop[one]
        length = alone.steps[0]
        assert torch.equal(alone.trace["loss"][:, 0], together.trace["loss"][:length, unit])
        assert together.trace["loss"][length:, unit].isnan().all()


def test_the_published_stopping_rule():
    """Against the rule written out: stop when the 0.9-average of the loss has not improved for
    `patience` steps."""
    losses = [
        math.sin(step / 7) * math.exp(-step / 40) - min(step, 60) / 100 for step in range(400)
    ]
    calls = iter(losses)

    def evaluate(raw):
        return {"loss": next(calls) + 0 * raw.flatten(1).sum(1)}

    result = ADAM(evaluate, raw_of([0.0]))
    average, best, improved = losses[0], math.inf, 0
    for step, loss in enumerate(losses, start=1):
        average = loss if step == 1 else 0.9 * average + 0.1 * loss
        if average < best:
            best, improved = average, step
        if step - improved >= 20:
            break
    assert result.stop == ("converged",)
    assert result.steps == (step,)


def test_the_best_iterate_is_kept():
    seen = []

    def evaluate(raw):
        seen.append(raw.detach().clone())
        step = len(seen)
        return {"loss": abs(step - 4) + 0.01 * raw.flatten(1).sum(1)}

    result = ADAM(evaluate, raw_of([5.0]))
    assert torch.equal(result.raw, seen[3])


def test_max_steps_and_divergence():
    from dataclasses import replace

    assert replace(ADAM, steps=3)(quadratic(raw_of([1.0])), raw_of([0.0])).stop == ("max_steps",)

    def explode(raw):
        loss = raw.flatten(1).sum(1)
        return {"loss": torch.where(loss < 0.5, torch.log(loss - 0.5), loss)}

    result = ADAM(explode, raw_of([0.3]))
    assert result.stop == ("diverged",)
    assert result.raw.isfinite().all()


def test_ctrl_c_ends_with_what_there_is():
    def on_step(step, raw, terms):
        if step == 7:
            raise KeyboardInterrupt

    result = ADAM(quadratic(raw_of([1.0])), raw_of([0.0]), on_step)
    assert result.interrupted
    assert result.steps == (7,)
    assert 0 < result.raw.mean() < 1


def draws_of(batches):
    """Noise whose first value says whether the unit answers to it."""
    source = iter(batches)
    return lambda: torch.tensor(next(source)).reshape(1, -1, 1, 1, 1).expand(1, -1, 3, 2, 2).clone()


def positive(raw):
    return raw[0, :, 0, 0, 0].clamp(min=0)


def test_images_without_gradient_are_drawn_again():
    draw = draws_of([[1.0, -1.0, 2.0], [-1.0, 3.0, 4.0], [9.0, 9.0, 9.0]])
    start = live_start(draw, positive, rounds=5)
    assert start[0, :, 0, 0, 0].tolist() == [1, 2, 3]


def test_a_rare_live_image_is_copied_and_a_dead_unit_is_none():
    draw = draws_of([[-1.0, 1.0]] + [[-1.0, -1.0]] * 4)
    start = live_start(draw, positive, rounds=3)
    assert start[0, :, 0, 0, 0].tolist() == pytest.approx([1, 0.9])
    assert live_start(draws_of([[-1.0, -1.0]] * 4), positive, rounds=3) is None
