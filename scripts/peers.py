"""The same piece of work in three peer packages: torch-lucent, horama and torch-dreams.

Six images for one unit of VGG-19's conv3_1 (response before the ReLU), with the same number of
steps and all else as each package has it by default. Two sizes of image:

- each package's own default size, with its own transforms, maximising the mean of the channel (what
  each one documents), through the network with its padding;
- 24, the unit's receptive field, with every transform that can be switched off switched off and the
  network without padding: the kindest setting that the packages' own options allow.

No peer computes a layer after conv3_1, nor gradients for weights. Whatever the size, the result is
measured alike: from every final image the 24x24 crop that the unit responds to most, in grey levels
around the network's mean, at one norm. Nothing of the peers is patched.

    results = run_peers(Work(features, unit=21, mean=mean, std=std, response=response))

Everything runs where `features` is; lucent insists on CUDA where it sees a device.
"""

from __future__ import annotations

import io
import random
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIELD, STRIDE = 24, 4  # of conv3_1
NORM = 2651.66 / 2  # Euclidean, of an image of 24x24 in grey levels: the paper's table
WINDOW = 192  # crops are sought in the middle of large images
CANDIDATES = 4  # crops looked at exactly, for every offset within a stride
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Work:
    """The piece of work, and how its result is measured."""

    features: nn.Sequential  # torchvision's vgg19().features up to and with conv3_1: features[:11]
    unit: int
    mean: Tensor  # [3], of pixels in [0, 1]
    std: Tensor  # [3]
    response: Callable[[Tensor], Tensor]  # [image, 3, 24, 24] in grey levels -> [image]
    steps: int = 200
    images: int = 6
    seed: int = 0
    budget: float = 180.0  # seconds a job may take; longer ones run fewer steps


@dataclass(frozen=True)
class PeerResult:
    name: str
    version: str | None
    size: int
    steps: int  # that were really run
    seconds: float | None  # of all `Work.steps`; extrapolated where fewer were run
    seconds_per_step: float | None
    responses: tuple[float, ...]
    distance_min: float | None  # RMS grey levels, between the two most alike crops
    note: str


class Network(nn.Module):
    """The network behind the ImageNet normalization that every peer applies by itself."""

    scale: Tensor
    shift: Tensor

    def __init__(self, work: Work, padded: bool) -> None:
        super().__init__()
        self.features = deepcopy(work.features).eval().requires_grad_(False)
        if not padded:
            remove_padding(self.features)
        mean, std = (_column(values, work.mean) for values in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("scale", std / _column(work.std, work.mean))
        self.register_buffer("shift", (mean - _column(work.mean)) / _column(work.std, work.mean))

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x * self.scale + self.shift)


def render_lucent(network: Network, work: Work, size: int, steps: int) -> Tensor:
    objectives, param, render = (
        import_module(f"lucent.optvis.{name}") for name in ("objectives", "param", "render")
    )
    layer = f"features_{len(network.features) - 1}"
    objective = objectives.channel(layer, work.unit) - 1e2 * objectives.diversity(layer)
    kind = {"transforms": [], "fixed_image_size": size} if size == FIELD else {}  # 224 without
    images = partial(param.image, size, batch=work.images)
    arrays = render.render_vis(
        network, objective, images, thresholds=(steps,), show_image=False, progress=False, **kind
    )
    return torch.as_tensor(arrays[-1]).permute(0, 3, 1, 2)


def render_horama(network: Network, work: Work, size: int, steps: int) -> Tensor:
    horama = import_module("horama")
    kind = {"model_input_size": size, "box_size": (1.0, 1.0), "noise": 0.0} if size == FIELD else {}
    images = [
        horama.fourier(
            lambda crops: network(crops)[:, work.unit].mean(),
            total_steps=steps,
            image_size=size,
            device=network.shift.device,
            **kind,
        )[0].detach()
        for _ in range(work.images)
    ]
    mean, std = (_column(values, images[0]) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.stack(images) * std + mean).clamp(0, 1)


def render_dreams(network: Network, work: Work, size: int, steps: int) -> Tensor:
    params = import_module("torch_dreams.batched_image_param")
    device = str(network.shift.device)
    dreamer = import_module("torch_dreams").Dreamer(network, quiet=True, device=device)
    if size == FIELD:
        dreamer.set_custom_transforms(nn.Identity())
    found = dreamer.render(
        layers=[network.features[-1]],
        image_parameter=params.BatchedAutoImageParam(
            work.images, height=size, width=size, device=device
        ),
        iters=steps,
        custom_func=lambda outputs: -outputs[0][:, work.unit].mean(),
    )
    return torch.stack([one.to_chw_tensor(device=device) for one in found.image_params])


@dataclass(frozen=True)
class Peer:
    name: str  # of the distribution
    render: Callable[[Network, Work, int, int], Tensor]  # -> [image, 3, size, size] in [0, 1]
    default_size: int
    zoom: float  # how large, on average, the network is shown an image of the default size
    note: str


PEERS = (
    Peer("torch-lucent", render_lucent, 128, 224 / 152, "one batch, diversity 1e2 at conv3_1"),
    # maco(), horama's own method, downloads a spectrum when it runs; fourier() needs nothing.
    Peer("horama", render_horama, 1280, 224 / (0.275 * 1280), "fourier(), one image after another"),
    Peer("torch-dreams", render_dreams, 256, 0.85, "one batch, no diversity term"),
)


def run_peers(work: Work, peers: Sequence[Peer] = PEERS) -> list[PeerResult]:
    return [run_peer(peer, work, size) for peer in peers for size in (peer.default_size, FIELD)]


def run_peer(peer: Peer, work: Work, size: int) -> PeerResult:
    """One job. A peer that is absent or fails gives a result that says so."""
    found = None
    try:
        found = version(peer.name)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # progress bars
            warnings.simplefilter("ignore")
            return _measure(peer, work, size, found)
    except PackageNotFoundError:
        note = "not installed"
    except Exception as error:  # whatever a peer raises is its result
        note = f"failed: {type(error).__name__}: {error}"
    return PeerResult(peer.name, found, size, 0, None, None, (), None, note)


def _measure(peer: Peer, work: Work, size: int, found: str) -> PeerResult:
    def timed(steps: int) -> tuple[Tensor, float]:
        random.seed(work.seed)
        np.random.seed(work.seed)  # lucent and torch-dreams draw from the global generators
        torch.manual_seed(work.seed)
        network = Network(work, padded=size != FIELD)  # a fresh one: peers leave hooks behind
        begin = time.perf_counter()
        images = peer.render(network, work, size, steps).cpu()  # which waits for a GPU
        return images, time.perf_counter() - begin

    steps, note = work.steps, peer.note
    probe = timed(1)[1]  # imports and warms up, too
    if probe * steps > work.budget:
        probe = timed(1)[1]
        steps = min(steps, max(1, int(work.budget / probe)))
    images, seconds = timed(steps)
    if steps < work.steps:
        note += f"; seconds extrapolated from {steps} steps, responses after those"
    zooms = (1.0,) if size == FIELD else (1.0, peer.zoom)
    crops, responses = best_crops(images.to(work.mean), work, zooms)
    each, reached = seconds / steps, tuple(responses.tolist())
    distance = F.pdist(crops.flatten(1)).min().item() / crops[0].numel() ** 0.5
    return PeerResult(
        peer.name, found, size, steps, each * work.steps, each, reached, distance, note
    )


@torch.no_grad()
def best_crops(images: Tensor, work: Work, zooms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """From every image the crop, at the norm, with the highest response; and the responses.

    Candidates come from the unpadded network run over the image at each of the magnifications, at
    every offset: the crops with the most response (above that to plain grey) for their norm.
    """
    features = remove_padding(deepcopy(work.features).eval())
    std = _column(work.std, images)
    nothing = features(images.new_zeros(1, 3, FIELD, FIELD))[0, work.unit]
    best = []
    for image in 255 * (images[:, None] - _column(work.mean, images)):
        candidates = []
        for zoom in zooms:
            seen = F.interpolate(image, scale_factor=zoom, mode="bilinear", antialias=True)
            top, left = (max(0, (side - WINDOW) // 2) for side in seen.shape[2:])
            seen = seen[..., top : top + WINDOW, left : left + WINDOW]
            spare = min(STRIDE, seen.shape[-1] - FIELD + 1)
            for dy, dx in np.ndindex(spare, spare):
                part = seen[..., dy:, dx:]
                energy = F.avg_pool2d(part.square().sum(1), FIELD, STRIDE) * FIELD**2
                gain = (features(part / (255 * std))[:, work.unit] - nothing) / energy.sqrt()
                crops = F.unfold(part, FIELD, stride=STRIDE)[0].T  # [position, values]
                candidates.append(crops[gain.flatten().topk(min(CANDIDATES, len(crops))).indices])
        crops = torch.cat(candidates)
        crops = (NORM * F.normalize(crops, dim=1)).reshape(-1, 3, FIELD, FIELD)
        responses = work.response(crops)
        best.append((crops[responses.argmax()], responses.max()))
    return torch.stack([crop for crop, _ in best]), torch.stack([value for _, value in best])


def remove_padding(features: nn.Sequential) -> nn.Sequential:
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            layer.padding = (0, 0)
    return features


def _column(values: Tensor | Sequence[float], like: Tensor | None = None) -> Tensor:
    column = torch.as_tensor(values).reshape(3, 1, 1)
    return column if like is None else column.to(like)
