"""The same task in three peer packages: torch-lucent, horama and torch-dreams.

The task: six images for a unit of VGG-19's conv3_1 (response before the ReLU), with the same number
of steps and the defaults of the package otherwise. Two sizes of image:

- the package's default size, with its transforms, maximising the mean of the channel (the use that
  the package documents), through the padded network;
- 24, the unit's receptive field, through the unpadded network, with all transforms off that can be
  switched off: the most favourable setting that the package's options allow.

No peer computes layers after conv3_1 or gradients for weights. Results are measured in the same way
for all sizes: from every final image the 24x24 crop with the highest response, in grey levels
around the network's mean, at the same norm. The peers' code is not modified.

    results = run_peers(Work(features, unit=21, mean=mean, std=std, response=response))

All runs on the device of `features`; lucent always uses CUDA if there is a GPU.
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
NORM = (
    2651.66 / 2
)  # Euclidean, of a 24x24 image in grey levels: the paper's table (docs/method.md, section 2)
WINDOW = 192  # of large images, only the middle is searched for crops
CANDIDATES = 4  # crops whose response is computed exactly, per offset within a stride
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Work:
    """The task, and how its result is measured."""

    features: nn.Sequential  # torchvision's vgg19().features[:11], which ends with conv3_1
    unit: int
    mean: Tensor  # [3], of pixels in [0, 1]
    std: Tensor  # [3]
    response: Callable[[Tensor], Tensor]  # [image, 3, 24, 24] in grey levels -> [image]
    steps: int = 200
    images: int = 6
    seed: int = 0
    budget: float = 180.0  # seconds per peer and size; if it needs more, it runs fewer steps


@dataclass(frozen=True)
class PeerResult:
    name: str
    version: str | None
    size: int
    steps: int  # that were run
    seconds: float | None  # of `Work.steps` steps; extrapolated if fewer were run
    seconds_per_step: float | None
    responses: tuple[float, ...]
    distance_min: float | None  # RMS grey levels, between the two most similar crops
    note: str


class Network(nn.Module):
    """The network, for inputs to which a peer has applied the usual ImageNet normalization.

    Undoes that normalization and applies that of the weights.
    """

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
    kind = (
        {"transforms": [], "fixed_image_size": size} if size == FIELD else {}
    )  # its default is 224
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
    result = dreamer.render(
        layers=[network.features[-1]],
        image_parameter=params.BatchedAutoImageParam(
            work.images, height=size, width=size, device=device
        ),
        iters=steps,
        custom_func=lambda outputs: -outputs[0][:, work.unit].mean(),
    )
    return torch.stack([image.to_chw_tensor(device=device) for image in result.image_params])


@dataclass(frozen=True)
class Peer:
    name: str  # of the distribution
    render: Callable[[Network, Work, int, int], Tensor]  # -> [image, 3, size, size] in [0, 1]
    default_size: int
    zoom: float  # average factor by which the peer resizes a default-size image for the network
    note: str


PEERS = (
    Peer("torch-lucent", render_lucent, 128, 224 / 152, "one batch, diversity 1e2 at conv3_1"),
    # Not maco(), horama's own method: it downloads a spectrum when it runs.
    Peer("horama", render_horama, 1280, 224 / (0.275 * 1280), "fourier(), one image after another"),
    Peer("torch-dreams", render_dreams, 256, 0.85, "one batch, no diversity term"),
)


def run_peers(work: Work, peers: Sequence[Peer] = PEERS) -> list[PeerResult]:
    return [run_peer(peer, work, size) for peer in peers for size in (peer.default_size, FIELD)]


def run_peer(peer: Peer, work: Work, size: int) -> PeerResult:
    """Run a peer at an image size. If it is missing or fails, the result's note says so."""
    installed = None
    try:
        installed = version(peer.name)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # progress bars
            warnings.simplefilter("ignore")
            return _measure(peer, work, size, installed)
    except PackageNotFoundError:
        note = "not installed"
    except Exception as error:  # a peer may raise anything; it must not end the benchmark
        note = f"failed: {type(error).__name__}: {error}"
    return PeerResult(peer.name, installed, size, 0, None, None, (), None, note)


def _measure(peer: Peer, work: Work, size: int, installed: str) -> PeerResult:
    def timed(steps: int) -> tuple[Tensor, float]:
        random.seed(work.seed)
        np.random.seed(work.seed)  # lucent and torch-dreams draw from the global generators
        torch.manual_seed(work.seed)
        # A new network for every call: peers leave hooks behind.
        network = Network(work, padded=size != FIELD)
        begin = time.perf_counter()
        images = peer.render(network, work, size, steps).cpu()  # .cpu() waits for the GPU
        return images, time.perf_counter() - begin

    steps, note = work.steps, peer.note
    probe = timed(1)[1]  # includes imports and warm-up, hence the second probe
    if probe * steps > work.budget:
        probe = timed(1)[1]
        steps = min(steps, max(1, int(work.budget / probe)))
    images, seconds = timed(steps)
    if steps < work.steps:
        note += f"; seconds extrapolated from {steps} steps, responses after these"
    zooms = (1.0,) if size == FIELD else (1.0, peer.zoom)
    crops, responses = best_crops(images.to(work.mean), work, zooms)
    per_step = seconds / steps
    distance = F.pdist(crops.flatten(1)).min().item() / crops[0].numel() ** 0.5
    return PeerResult(
        peer.name, installed, size, steps, per_step * work.steps, per_step,
        tuple(responses.tolist()), distance, note,
    )  # fmt: skip


@torch.no_grad()
def best_crops(images: Tensor, work: Work, zooms: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the crop with the highest response of every image, at norm `NORM`, and the responses.

    The unpadded network runs over the image at every zoom and offset. Candidates are the crops with
    the highest ratio of response (above the response to plain grey) to norm; for these the response
    at norm `NORM` is computed.
    """
    features = remove_padding(deepcopy(work.features).eval())
    std = _column(work.std, images)
    to_grey = features(images.new_zeros(1, 3, FIELD, FIELD))[0, work.unit]
    best = []
    for image in 255 * (images[:, None] - _column(work.mean, images)):
        candidates = []
        for zoom in zooms:
            zoomed = F.interpolate(image, scale_factor=zoom, mode="bilinear", antialias=True)
            top, left = (max(0, (side - WINDOW) // 2) for side in zoomed.shape[2:])
            zoomed = zoomed[..., top : top + WINDOW, left : left + WINDOW]
            spare = min(STRIDE, zoomed.shape[-1] - FIELD + 1)
            for dy, dx in np.ndindex(spare, spare):
                part = zoomed[..., dy:, dx:]
                energy = F.avg_pool2d(part.square().sum(1), FIELD, STRIDE) * FIELD**2
                gain = (features(part / (255 * std))[:, work.unit] - to_grey) / energy.sqrt()
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
