"""`diversevis weights`: a network's weights, fetched and checked ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

from diversevis.config.compose import compose_config, compose_model
from diversevis.models.network import check_weights, open_model


def weights_command(arguments: Sequence[str]) -> None:
    """Check every tensor, and print the source, the SHA-256 and the deepest layer served."""
    model = compose_model(arguments)
    traced = open_model(model)
    layer = compose_config(arguments).layer
    checked = check_weights(model, traced, traced.layer(str(layer)) if layer else None)
    print(f"{checked.record.source}")
    print(f"sha256 {checked.record.sha256}")
    print(f"{checked.tensors} tensors, all finite; serves {traced.name} up to {checked.deepest}")
