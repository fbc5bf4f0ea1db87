"""Networks, their layers, weights and receptive fields."""
