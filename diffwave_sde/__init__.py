"""Score-based diffusion on raw audio."""
