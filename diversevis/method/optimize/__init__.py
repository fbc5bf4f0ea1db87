"""Gradient ascent on the images of a batch of units."""
