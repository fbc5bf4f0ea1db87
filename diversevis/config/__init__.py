"""Hydra configs -> a checked `Experiment`. Hydra and OmegaConf live here and nowhere else."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diversevis.config.analyze import analyze_command
    from diversevis.config.compose import compose_config, compose_model, experiment_of, plain
    from diversevis.config.place import config_folder
    from diversevis.config.retry import retry_command
    from diversevis.config.run import run_command

__all__ = [
    "analyze_command",
    "compose_config",
    "compose_model",
    "config_folder",
    "experiment_of",
    "plain",
    "retry_command",
    "run_command",
]

PLACES = {
    "analyze_command": "analyze", "compose_config": "compose", "compose_model": "compose",
    "config_folder": "place", "experiment_of": "compose", "plain": "compose",
    "retry_command": "retry", "run_command": "run",
}  # fmt: skip


def __getattr__(name: str) -> object:
    """Imported once it is asked for: a cluster's job, which begins with `jobs`, must not spend its
    first seconds on torch before it can hear the signals that clusters send."""
    if name not in PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"diversevis.config.{PLACES[name]}"), name)
