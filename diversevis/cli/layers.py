"""`diversevis layers`: the layers of a network."""

from __future__ import annotations

from collections.abc import Sequence

from diversevis.cli.status import aligned
from diversevis.config.compose import compose_model
from diversevis.errors import InputError
from diversevis.models.network import open_model
from diversevis.models.receptive_field import receptive_field


def layers_command(arguments: Sequence[str]) -> None:
    """Print a table of the layers whose units have a receptive field of fixed size."""
    traced = open_model(compose_model(arguments))
    rows = [("layer", "units", "receptive field", "stride", "response")]
    for layer in traced.layers:
        try:
            field = receptive_field(traced.root, traced.graph, layer.node)
        except InputError:  # its units see the whole image, whatever its size
            continue
        # Pixels, vertical and horizontal: `14`, or `14 x 10`.
        size, stride = (f"{y}" if y == x else f"{y} x {x}" for y, x in (field.size, field.stride))
        rows.append((layer.name, str(layer.channels), size, stride, layer.response))
    print(*aligned(rows, right=(1, 2, 3)), sep="\n")
