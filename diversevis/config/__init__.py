"""Hydra configs -> a checked `Experiment`. Hydra and OmegaConf live here and nowhere else."""

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
