"""Frozen networks and the response of a named layer.

`open_model` traces a network without its weights; `load` fills in what a target layer needs.
"""

from diversevis.models.architectures import CustomModel, EnergyModel, Model, TorchvisionModel
from diversevis.models.network import CheckedWeights, Network, check_weights, load, open_model
from diversevis.models.trace import Layer, TracedModel
from diversevis.models.weights import WeightsRecord

__all__ = [
    "CheckedWeights",
    "CustomModel",
    "EnergyModel",
    "Layer",
    "Model",
    "Network",
    "TorchvisionModel",
    "TracedModel",
    "WeightsRecord",
    "check_weights",
    "load",
    "open_model",
]
