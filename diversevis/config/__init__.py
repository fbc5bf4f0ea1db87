"""Hydra configs and command-line words -> checked settings. Hydra and OmegaConf live only here."""
