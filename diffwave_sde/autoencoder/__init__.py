"""Autoencoders: waveforms x (B, 1, T) as latents z (B, C, N) of fewer numbers, at a lower rate, and back.

A bottleneck says what a latent may be: numbers near a normal law (KL), or rows of a codebook.
"""

from diffwave_sde.autoencoder.adversary import Adversary
from diffwave_sde.autoencoder.bottlenecks import FSQ, KL, Bottleneck, Identity, ResidualVQ, VectorQuantizer
from diffwave_sde.autoencoder.latents import Latents, LatentSounds
from diffwave_sde.autoencoder.loss import Reconstruction
from diffwave_sde.autoencoder.networks import Autoencoder, ConvAutoencoder, IdentityAutoencoder, Snake

__all__ = [
    "FSQ", "KL", "Adversary", "Autoencoder", "Bottleneck", "ConvAutoencoder", "Identity", "IdentityAutoencoder",
    "LatentSounds", "Latents", "Reconstruction", "ResidualVQ", "Snake", "VectorQuantizer",
]  # fmt: skip
