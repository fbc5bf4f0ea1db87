"""`diversevis weights`: a network's weights, fetched and checked ahead of time."""

from __future__ import annotations

from collections.abc import Sequence

from diversevis.config.bind import bind
from diversevis.config.compose import compose_config, compose_model, plain
from diversevis.models.network import check_weights, open_model


def weights_command(arguments: Sequence[str]) -> None:
    """Check every tensor, and print the source, the SHA-256 and the deepest layer served."""
    model = compose_model(arguments)
    traced = open_model(model)
    layer = bind(str | None, plain(compose_config(arguments))["layer"], "layer")
    chosen = traced.layer(layer) if layer else None
    record, tensors, deepest = check_weights(model, traced, chosen)
    print(f"{record.source}")
    print(f"sha256 {record.sha256}")
    print(f"{tensors} tensors, all finite; serves {traced.name} up to {deepest.name}")
