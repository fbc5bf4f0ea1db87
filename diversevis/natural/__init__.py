"""Natural images: what calibrates a network, and the crops of photographs that drive a unit most.

It knows folders of photographs and takes callables, not a network.
"""

from diversevis.natural.calibration import mean_activations
from diversevis.natural.exemplars import Exemplars, Found
from diversevis.natural.photographs import names_and_sizes

__all__ = ["Exemplars", "Found", "mean_activations", "names_and_sizes"]
