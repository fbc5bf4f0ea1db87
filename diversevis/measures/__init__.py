"""Measures of invariance, one file each: images and callables in, numbers out."""
