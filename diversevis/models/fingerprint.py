"""A hash of what a network computes, for networks whose code can change."""

from __future__ import annotations

import hashlib

import torch

from diversevis.models.checks import random_images
from diversevis.models.load import Network
from diversevis.models.view import View


def fingerprint(network: Network, view: View) -> str:
    """A hash of what the network computes, not of its code: its responses to a fixed image.

    In float64, of which six digits are the same on all machines; where the network does not run in
    float64, two digits of float32.
    """
    z, root = random_images(network.colors, view.field.size)[:1], view.plain.root
    digits = 6
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        try:
            root.double()
            responses = view.plain(z.double())[0]
        except Exception:  # it casts to float32 on its way
            digits, responses = 2, None
        finally:
            root.float()
        if responses is None:
            responses = view.plain(z)[0]
    text = " ".join(f"{value:.{digits - 1}e}" for value in responses.flatten().tolist())
    return hashlib.sha256(text.encode()).hexdigest()
