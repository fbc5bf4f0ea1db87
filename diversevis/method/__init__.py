"""The method: diverse images of a batch of units (Cadena et al. 2018)."""
