"""Folders of photographs: files, crops, mean activations. Knows no measure and no network."""
