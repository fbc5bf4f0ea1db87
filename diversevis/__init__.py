"""Diverse feature visualization: to what is this unit invariant?"""

__version__ = "0.1.0"
