"""`diversevis layers`: the layers of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diversevis.cli.status import aligned
from diversevis.config.compose import compose_opening
from diversevis.config.log import note, show_warnings
from diversevis.models.network import OpenNetwork
from diversevis.models.receptive_field import ReceptiveField, UnitField

MOST_NAMES = 4  # of modules that are no layers, in a line


def layers_command(arguments: Sequence[str]) -> None:
    """Print a table of the layers, and why other modules are none."""
    show_warnings()
    opening = compose_opening(arguments)
    opened = OpenNetwork(model=opening.model, size=opening.size)
    layers, left_out, _ = opened.listing
    rows = [("layer", "units", "receptive field", "stride", "response")]
    for layer, field in zip(layers, opened.fields(layers), strict=True):
        response = layer.response
        if field is None and (fields := opened.unit_fields(layer)) is not None:
            response += f", units see {_range(fields)} pixels of it"
        rows.append((layer.name, str(layer.channels), *_in_words(field), response))
    print(*aligned(rows, right=(1, 2, 3)), sep="\n", flush=True)
    for line in _left_out(left_out):
        note(line)


def _in_words(field: ReceptiveField | None) -> tuple[str, str]:
    """Size and stride in pixels, vertical and horizontal: `14`, or `14 x 10`."""
    if field is None:
        return "whole image", "-"
    size, stride = (f"{y:g}" if y == x else f"{y:g} x {x:g}" for y, x in (field.size, field.stride))
    return size, stride


def _range(fields: Sequence[UnitField | None]) -> str:
    """The smallest and the largest of the units' fields: `15 x 15 to 36 x 40`."""
    known = sorted(
        (field.height * field.width, f"{field.height} x {field.width}") for field in fields if field
    )
    return " to ".join(dict.fromkeys(text for _, text in (known[0], known[-1])))


def _left_out(reasons: Mapping[str, str]) -> list[str]:
    """A line per reason, with the modules that are no layers for it."""
    modules: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        modules.setdefault(reason, []).append(path or "output")
    lines = []
    for reason, paths in modules.items():
        names = ", ".join(paths[:MOST_NAMES])
        more = f" and {len(paths) - MOST_NAMES} more" if len(paths) > MOST_NAMES else ""
        lines.append(f"no layer: {names}{more}: {reason}")
    return lines
