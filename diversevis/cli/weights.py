"""`diversevis weights`: a network's weights, fetched and checked ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

from diversevis.config.compose import compose_config, compose_opening
from diversevis.config.log import show_warnings
from diversevis.models.load import check_weights
from diversevis.models.network import OpenNetwork


def weights_command(arguments: Sequence[str]) -> None:
    """Check every tensor, and print the source, the SHA-256 and the deepest layer served."""
    show_warnings()
    model, size = compose_opening(arguments)
    opened = OpenNetwork(model=model, size=size)
    layer = compose_config(arguments).layer
    chosen = opened.layer(str(layer)) if layer else None
    record, tensors, deepest = check_weights(opened, chosen)
    print(f"{record.source}")
    print(f"sha256 {record.sha256}")
    print(f"{tensors} tensors, all finite; serves {opened.name} up to {deepest.name}")
