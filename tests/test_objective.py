import math

import pytest
import torch

from diversevis.objective import (
    Objective,
    Target,
    closest_pair,
    pairwise_distances,
    smallest_distance,
)


def brute_force(features):
    """Every pair in plain Python: the other route."""
    units, n, size = features.shape
    return torch.tensor([
        [math.sqrt(((features[u, i] - features[u, j]) ** 2).double().sum() / size)
         for i in range(n) for j in range(i + 1, n)]
        for u in range(units)
    ])  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 7])
def test_distances_are_those_of_every_pair(n):
    features = torch.randn(4, n, 50) * 100 + 1000
    expected = brute_force(features)
    assert torch.allclose(pairwise_distances(features), expected.double())
    assert torch.allclose(smallest_distance(features).double(), expected.double().min(1).values)


def test_the_closest_pair_is_found_even_among_near_copies_far_from_zero():
    base = torch.randn(1, 1, 200)
    features = 1e4 + base + 1e-1 * torch.randn(1, 6, 200)
    expected = brute_force(features)
    assert smallest_distance(features).item() == pytest.approx(expected.min().item(), rel=1e-3)


def test_only_the_closest_pair_carries_gradient_and_copies_give_zero_not_nan():
    features = torch.randn(2, 4, 9)
    features[1, 3] = features[1, 0]
    features.requires_grad_(True)
    smallest_distance(features).sum().backward()
    first, second = closest_pair(features)
    moved = features.grad[0].abs().sum(1) > 0
    assert moved.nonzero().flatten().tolist() == sorted([first[0].item(), second[0].item()])
    assert (first[1].item(), second[1].item()) == (0, 3)
    assert torch.equal(features.grad[1], torch.zeros(4, 9))


def test_terms_sum_to_the_loss():
    responses, features = torch.tensor([[1.0, 3.0]]), torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])
    objective = Objective(
        diversity=0.5, response_scale=torch.tensor([4.0]), distance_scale=torch.tensor([10.0])
    )
    terms = objective(responses, features)
    distance = math.sqrt(25 / 2)
    assert terms["response"].item() == 2 / 4
    assert terms["distance_min"].item() == pytest.approx(distance)
    assert terms["loss"].item() == pytest.approx(-(2 / 4 + 0.5 * distance / 10))
    single = objective(responses[:, :1], features[:, :1])
    assert single["loss"].item() == -0.25
    assert "distance_min" not in single


def test_responses_to_a_channel_and_to_a_direction():
    y = torch.tensor([[[3.0, 4.0, 0.0]], [[3.0, 4.0, 0.0]]])
    vectors = torch.tensor([[0.0, 2.0, 0.0], [3.0, 4.0, 0.0]])  # any length: the direction counts
    kinds = {
        kind: Target(vectors=vectors, kind=kind, gain=None)(y)[:, 0]
        for kind in ("max", "cos", "mse")
    }
    assert kinds["max"].tolist() == [4, 5]
    assert kinds["cos"].tolist() == pytest.approx([4 / math.sqrt(25.01), 5 / math.sqrt(25.01)])
    assert kinds["mse"].tolist() == pytest.approx([-(9 + 4) / 3, 0])


def test_channel_gains_scale_the_response():
    y = torch.tensor([[[3.0, 4.0]]])
    one_hot = torch.tensor([[0.0, 1.0]])
    target = Target(vectors=one_hot, kind="max", gain=torch.tensor([9.0, 0.5]))
    assert target(y).item() == 2
