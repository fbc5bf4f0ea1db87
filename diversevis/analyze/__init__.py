"""Measures of invariance, one file each: images and callables in, numbers out.

METHOD.md sections 6 to 8.
"""

from diversevis.analyze.deformation import Deformation
from diversevis.analyze.dimension import Dimension
from diversevis.analyze.phase import Phase
from diversevis.analyze.shift import Shift

__all__ = ["Deformation", "Dimension", "Phase", "Shift"]
