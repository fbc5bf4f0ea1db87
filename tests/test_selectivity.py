"""Selectivity: responses of all units to the images of every unit, against closed forms."""

import json
import math
from dataclasses import replace

import pytest
import torch
from test_visualize import setup_of

from diversevis.cli.main import main
from diversevis.errors import InputError
from diversevis.experiment.measure import flat
from diversevis.experiment.subject import subject_without_run
from diversevis.measures import selectivity
from diversevis.measures.catalogue import measure
from diversevis.models.energy import gabor_pairs

QUICK = ["optimizer.steps=4", "optimizer.search_steps=2", "objective.restarts=1", "device=cpu"]


def with_images(subject, images, best=None):
    """The subject with these images, the responses to them, and best responses."""
    responses = subject.respond_own()(images).detach()
    if best is None:
        best = responses.amax(1)
    return replace(subject, images=images, responses=responses, best=best)


def energy_subject(layer, units="all", phases=(0.0,)):
    """Units of the analytic network with their Gabor at these phases, at norm rho."""
    subject = subject_without_run(setup_of(f"layer={layer}", f"unit={units}"))
    filters = gabor_pairs()
    if layer == "simple":
        images = subject.norm * filters[list(subject.units)][:, None]
    else:
        even, odd = filters[0::2][list(subject.units)], filters[1::2][list(subject.units)]
        images = [subject.norm * (even * math.cos(p) + odd * math.sin(p)) for p in phases]
        images = torch.stack(images, dim=1)
    return with_images(subject, images)


def linear(weights, images, best=None, **changes):
    """Linear units with these filters [unit, 3 * 2 * 2] and images of the same kind; the best
    responses are those to the images, unless others are given."""
    subject = subject_without_run(setup_of("layer=simple", f"unit=0-{len(weights) - 1}"))
    images = images.reshape(len(weights), -1, 3, 2, 2)
    responses = torch.einsum("up,uip->ui", weights, images.flatten(2))
    if best is not None:
        responses = best[:, None].expand_as(responses)
    return replace(
        subject, respond_all=lambda batch: lambda x: x.flatten(1) @ weights.T, images=images,
        responses=responses, best=responses.amax(1), **changes,
    )  # fmt: skip


def test_simple_units_give_products_of_filters():
    """Of a linear unit B to rho times the filter of A: rho <w_A, w_B>, over its best, rho."""
    matrix = measure(energy_subject("simple"), "selectivity").arrays["matrix"]
    filters = gabor_pairs().flatten(1)
    assert torch.allclose(matrix, filters @ filters.T, atol=1e-5)
    assert matrix[0, 1].abs() < 1e-5  # a quadrature partner


def test_complex_units_give_energies_of_partners():
    """The energy of B in the Gabor of A at any phase; colour axes are orthogonal: they never meet."""
    phases = [0.0, 0.7, 2.0]
    taken = measure(energy_subject("complex", phases=phases), "selectivity")
    matrix, filters = taken.arrays["matrix"], gabor_pairs().flatten(1)
    even, odd = filters[0::2], filters[1::2]
    expected = torch.zeros(72, 72)
    for phase in phases:
        shown = even * math.cos(phase) + odd * math.sin(phase)
        expected += ((shown @ even.T).square() + (shown @ odd.T).square()) / len(phases)
    assert torch.allclose(matrix, expected, atol=1e-5)
    assert matrix[:24, 24:].abs().max() < 1e-5
    assert torch.allclose(matrix.diag(), torch.ones(72), atol=1e-5)
    for row, numbers in enumerate(taken.numbers):
        assert numbers["rank"] == 1
        assert numbers["mean_others"] == pytest.approx(
            (expected[row].sum().item() - 1) / 71, abs=1e-5
        )
        assert numbers["mean_by_others"] == pytest.approx(
            (expected[:, row].sum().item() - 1) / 71, abs=1e-5
        )


def test_pass_equals_responses_pair_by_pair():
    subject = subject_without_run(setup_of("layer=shift", "unit=[3,10,30,41]"))
    noise = torch.randn(4, 2, *subject.image_shape)
    images = noise * (subject.norm / noise.flatten(2).norm(dim=2))[..., None, None, None]
    subject = with_images(subject, images)
    matrix = measure(subject, "selectivity").arrays["matrix"]
    for a in range(4):
        for b in range(4):
            of_pair = subject.take([b]).respond_own()(images[a : a + 1]).mean()
            assert matrix[a, b].item() == pytest.approx(
                (of_pair / subject.best[b]).item(), rel=1e-4
            )


def test_orthogonal_units_drive_themselves_alone():
    numbers = measure(linear(torch.eye(12), torch.eye(12)), "selectivity").numbers
    for unit in numbers:
        expected = {"rank": 1, "own": 1, "mean_others": 0, "mean_by_others": 0, "above_half": 0}
        assert {key: unit[key] for key in expected} == expected


def test_shuffled_images_give_uniform_ranks():
    weights = torch.nn.functional.normalize(torch.randn(140, 12), dim=1)
    subject = linear(weights, weights)
    right = [unit["rank"] for unit in measure(subject, "selectivity").numbers]
    order = torch.randperm(140)
    shuffled = linear(weights, weights[order], torch.ones(140))
    ranks = torch.tensor([unit["rank"] for unit in measure(shuffled, "selectivity").numbers])
    assert right == [1] * 140
    counts = torch.histc(ranks.float(), 10, 0.5, 140.5)
    assert ((counts - 14).square() / 14).sum() < 27.9  # chi-square of 9 degrees: p = 0.001


def test_listed_units_are_those_of_the_matrix():
    weights = torch.randn(30, 12)
    subject = linear(weights, torch.randn(30, 2 * 12), torch.rand(30) + 1)
    taken = measure(subject, "selectivity")
    matrix = taken.arrays["matrix"]
    for row, unit in enumerate(taken.numbers):
        others = [u for u in range(30) if u != row]
        for key, values in (("confused", matrix[row]), ("driven_by", matrix[:, row])):
            expected = sorted(others, key=lambda u: -values[u])[:5]
            assert [other["unit"] for other in unit[key]] == expected
            assert [other["value"] for other in unit[key]] == pytest.approx(
                values[expected].tolist()
            )
        assert taken.arrays["confused"][row].tolist() == [o["unit"] for o in unit["confused"]]
        assert taken.arrays["drivers"][row].tolist() == [o["unit"] for o in unit["driven_by"]]
        assert unit["above_half"] == sum(matrix[row, u] > 0.5 for u in others)
        assert unit["share_above_half"] == pytest.approx(unit["above_half"] / 29)
        assert unit["rank"] == 1 + sum(matrix[row, u] > matrix[row, row] for u in others)
        means = [max(0, matrix[row, u].item()) for u in others]
        assert unit["mean_others"] == pytest.approx(sum(means) / 29)


def test_batches_change_nothing(monkeypatch):
    subject = linear(torch.randn(7, 12), torch.randn(7, 3 * 12), torch.ones(7))
    whole = measure(replace(subject, batch=1000), "selectivity")
    parts = measure(replace(subject, batch=2), "selectivity")
    for one, other in zip(parts.numbers, whole.numbers, strict=True):
        assert dict(flat("", one)) == pytest.approx(dict(flat("", other)), rel=1e-5)
        for key in ("confused", "driven_by"):
            assert [o["unit"] for o in one[key]] == [o["unit"] for o in other[key]]
    monkeypatch.setattr(selectivity, "MATRIX_UP_TO", 6)
    without = measure(subject, "selectivity")
    assert without.numbers == whole.numbers
    assert "matrix" not in without.arrays


def test_unusable_units_are_left_out():
    """Dead, never driven, and diverged: null numbers, rows and columns; the others do not see
    them."""
    weights = torch.randn(6, 12)
    images = torch.randn(6, 12)
    best = torch.tensor([1.0, 1.0, 0.0, math.inf, 1.0, 2.0])
    alive = (True, False, True, True, True, True)
    taken = measure(linear(weights, images, best, alive=alive), "selectivity")
    assert [unit is None for unit in taken.numbers] == [False, True, True, True, False, False]
    matrix, used = taken.arrays["matrix"], [0, 4, 5]
    assert matrix[1:4].isnan().all()
    assert matrix[:, 1:4].isnan().all()
    alone = measure(linear(weights, images, best).take(used), "selectivity")
    assert torch.equal(matrix[used][:, used], alone.arrays["matrix"])
    assert [taken.numbers[row] for row in used] == alone.numbers
    assert taken.arrays["confused"][0].tolist() == [
        used[row] for row in alone.arrays["confused"][0].tolist()
    ]


def test_responses_without_numbers_count_nowhere():
    weights = torch.randn(4, 12)
    subject = linear(weights, torch.randn(4, 12), torch.ones(4))
    broken = subject.respond_all(0)

    def respond(x):
        answers = broken(x).clone()
        answers[0, 2] = math.inf
        return answers

    numbers = measure(replace(subject, respond_all=lambda batch: respond), "selectivity").numbers
    json.dumps(numbers, allow_nan=False)
    assert [other["unit"] for other in numbers[0]["confused"]] != []
    assert 2 not in [other["unit"] for other in numbers[0]["confused"]]


def test_single_unit_is_refused():
    with pytest.raises(InputError, match=r"1 unit with a best response above 0 .*unit=0-63"):
        measure(energy_subject("complex", "3"), "selectivity")


def test_run_of_a_unit_names_the_reason(current_folder, capsys):
    """It does not break the other measures, nor the spread over seeds."""
    words = ["model=energy", "layer=simple", "unit=4", "n=2", "images=tensor", *QUICK]
    assert main(["run", *words, "analysis=[diversity,selectivity]", "seeds=2"]) == 0
    (folder,) = current_folder.glob("outputs/energy/simple/4/v001")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert "several units" in record["not_measured"]["selectivity"]
    (unit,) = json.loads((folder / "metrics.json").read_text())["units"]
    assert unit["diversity"] is not None
    assert "selectivity" not in unit
    assert "diversity.distance_mean" in unit["seeds"]
    assert main(["run", *words, "analysis=[diversity,selectivity]", "seeds=2"]) == 0
    assert "already finished" in capsys.readouterr().err
