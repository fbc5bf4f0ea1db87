"""Optimization of many units' images at once: the loop, two ways to move, a result that says why
it stopped.

It takes callables, not a model. Units share a batch but nothing else: each has its own loss, best
iterate and reason to stop, and leaves the batch when it has stopped.
"""

from diversevis.optimize.adam import Adam
from diversevis.optimize.loop import Keep, Listener, Problem, Result, State
from diversevis.optimize.sphere import Sphere
from diversevis.optimize.start import live_start

__all__ = ["Adam", "Keep", "Listener", "Problem", "Result", "Sphere", "State", "live_start"]
