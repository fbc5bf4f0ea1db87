"""Sweeps: what was planned, and what has become of it. Needs no network, and no torch."""
