import math
from dataclasses import replace

import pytest
import torch

from diversevis.method.objective import Objective, pairwise_distances, smallest_distance
from diversevis.models.targets import responses_to_all_images, responses_to_own_images


def brute_force(features):
    """Every pair in plain Python: the other route."""
    units, n, size = features.shape
    return torch.tensor([
        [math.sqrt(((features[u, i] - features[u, j]) ** 2).double().sum() / size)
         for i in range(n) for j in range(i + 1, n)]
        for u in range(units)
    ])  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 7])
def test_distances_equal_brute_force(n):
    features = torch.randn(4, n, 50) * 100 + 1000
    expected = brute_force(features)
    assert torch.allclose(pairwise_distances(features), expected.double())
    assert torch.allclose(smallest_distance(features).double(), expected.double().min(1).values)


def test_smallest_distance_among_near_copies():
    base = torch.randn(1, 1, 200)
    features = 1e4 + base + 1e-1 * torch.randn(1, 6, 200)
    expected = brute_force(features)
    assert smallest_distance(features).item() == pytest.approx(expected.min().item(), rel=1e-3)


def test_only_the_closest_pair_has_gradient():
    features = torch.randn(2, 4, 9)
    features[1, 3] = features[1, 0]
    features.requires_grad_(True)
    smallest_distance(features).sum().backward()
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    closest = pairs[brute_force(features.detach())[0].argmin()]
    moved = features.grad[0].abs().sum(1) > 0
    assert tuple(moved.nonzero().flatten().tolist()) == closest
    assert torch.equal(features.grad[1], torch.zeros(4, 9))


def soft_minimum(features, softness):
    """The weighted mean of all distances, pair by pair, whose weights carry no gradient."""
    units, n, size = features.shape
    found = []
    for unit in range(units):
        pairs = torch.stack([
            (features[unit, i] - features[unit, j]).square().sum().sqrt() / size**0.5
            for i in range(n) for j in range(i + 1, n)
        ])  # fmt: skip
        lengths = pairs.detach()
        weights = torch.exp(-(lengths - lengths.min()) / (softness * lengths.mean()))
        found.append((pairs * weights).sum() / weights.sum())
    return torch.stack(found)


@pytest.mark.parametrize("softness", [0.01, 0.3])
def test_soft_gradient_equals_its_definition(softness):
    """Against the definition, pair by pair in float64; the value stays the exact one."""
    features = torch.randn(3, 5, 40, dtype=torch.float64) * 30 + 100
    ours, theirs = (features.clone().requires_grad_(True) for _ in range(2))
    found = smallest_distance(ours, softness)
    assert torch.allclose(found, smallest_distance(features))
    weights = torch.tensor([1.0, 2.0, -3.0])
    (found * weights).sum().backward()
    (soft_minimum(theirs, softness) * weights).sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_soft_gradient_of_copies_is_finite():
    features = torch.randn(1, 4, 9).expand(2, 4, 9).clone()
    features[0, :] = features[0, 0]
    features[1, 3] = features[1, 0]
    features.requires_grad_(True)
    smallest_distance(features, 0.03).sum().backward()
    assert torch.equal(features.grad[0], torch.zeros(4, 9))
    assert features.grad.isfinite().all()


def test_terms_sum_to_the_loss():
    responses, features = torch.tensor([[1.0, 3.0]]), torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    objective = Objective(
        diversity=torch.tensor([0.5]),
        response_scale=torch.tensor([4.0]),
        distance_scale=torch.tensor([10.0]),
        enough=None,
    )
    terms = objective(responses, features)
    distance = math.sqrt(25 / 2)
    assert terms["response"].item() == 2 / 4
    assert terms["distance_min"].item() == pytest.approx(distance)
    assert terms["loss"].item() == pytest.approx(-(2 / 4 + 0.5 * distance / 10))
    guided = objective(responses, features, emphasis=3.0, softness=0.1)
    assert guided["loss"] == terms["loss"]
    content = replace(objective, enough=torch.tensor([2.0]))  # of the 1 and the 3, 1 and 2 count
    assert content(responses, features)["response"].item() == 1.5 / 4
    assert guided["descent"].item() == pytest.approx(-(2 / 4 + 1.5 * distance / 10))
    single = objective(responses[:, :1], features[:, :1])
    assert single["loss"].item() == -0.25
    assert "distance_min" not in single


def test_responses_of_channels_and_directions():
    y = torch.tensor([[[3.0, 4.0, 0.0]], [[3.0, 4.0, 0.0]]])
    vectors = torch.tensor([[0.0, 2.0, 0.0], [3.0, 4.0, 0.0]])  # any length: the direction counts
    kinds = {
        kind: responses_to_own_images(y, vectors, kind)[:, 0] for kind in ("max", "cos", "mse")
    }
    assert kinds["max"].tolist() == [4, 5]
    assert kinds["cos"].tolist() == pytest.approx([4 / math.sqrt(25.01), 5 / math.sqrt(25.01)])
    assert kinds["mse"].tolist() == pytest.approx([-(9 + 4) / 3, 0])
    for kind, responses in kinds.items():
        of_all = responses_to_all_images(y[0], vectors, kind)[0]
        assert of_all.tolist() == pytest.approx(responses.tolist())
