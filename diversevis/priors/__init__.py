"""Natural-image priors: how likely an image is among photographs."""
