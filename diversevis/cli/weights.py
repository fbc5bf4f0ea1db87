"""`diversevis weights`: a network's weights, fetched and checked ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

from diversevis.config.compose import compose_opening
from diversevis.config.log import show_warnings
from diversevis.models.load import check_weights
from diversevis.models.network import OpenNetwork


def weights_command(arguments: Sequence[str]) -> None:
    """Check every tensor, and print the source, the SHA-256 and the deepest layer served."""
    show_warnings()
    opening = compose_opening(arguments)
    opened = OpenNetwork(model=opening.model, size=opening.size)
    chosen = opened.layer(opening.layer) if opening.layer else None
    record, tensors, deepest = check_weights(opened, chosen)
    print(f"{record.source}")
    print(f"sha256 {record.sha256}")
    print(f"{tensors} tensors, all finite; serves {opened.name} up to {deepest.name}")
