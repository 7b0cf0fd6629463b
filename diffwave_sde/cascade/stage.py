r"""A stage of a cascade that goes up in rate: D(u, t, z, s) = E[x | u_t, z = P x + s n].

P takes the band that the stage before hands over (`bands.handed`), z is what that one made of it, noised to the level s
that this one is told. In that band u_t and z are two views of the same x with independent noise, so what both say of it
has the precision snr + 1 / s², and above it u_t says all that is known:

    D = a / p + net / √p,   a = Mᵀ Σ⁻¹ u + z / s²,   p = 1 / σ_d² + snr + 1 / s²   in the band that is handed over
                            a = Mᵀ Σ⁻¹ u,            p = 1 / σ_d² + snr            above it

which is Karras's preconditioning, band by band: without a band below it is that of `parametrization.Karras`. Where s is
small net has nothing to add below, and learns the band that this stage brings.

Where there is silence, D = 0 and net = -a / √p. What a network of one stage sees as u / σ, and may pass on directly, is
that here: noise of unit variance in either band, whatever σ and s. By the noise level of u_t alone the gain would have
to jump where the bands meet, which no frame of a lapped transform can; a tone stayed there, and noise in the tails.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from diffwave_sde.cascade.bands import dct, fitted, handed, idct
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.sde import SDE, float64

LEAST = 1e-5
"""The level below which a handed-over sound counts as known, σ; 1 / s² of it is still a number in float32."""


class StageDenoiser(BaseDenoiser):
    """A network read as D(u, t, z, s).

    `condition.audio` is z at its own rate, (B, 1, M), and `condition.level` its noise level s, (B,). The network sees
    what is known of x, and z at the rate of this stage, both of unit variance; then both over their noise, a / √p and
    z / s. It is told the noise level of the first one as every network is, and that of z as `condition.level` =
    ¼ log(s / σ_d).

    Source: Ho et al. 2022, section 3 (concatenation), section 4.2; Karras et al. 2022, eq. 7.

    Args:
        net: net(u (B, 4, N), noise (B,), condition) -> (B, 1, N).
        sde: the forward process, of one block.
        sigma_handed: standard deviation of a coefficient of the data in the band that is handed over.
        sigma_data: the same in the band above it, which this stage adds; by it losses are weighed.
    """

    weak: None = None

    def __init__(self, net: nn.Module, sde: SDE, sigma_handed: float = 0.5, sigma_data: float = 0.5):
        super().__init__()
        self.net, self.sde = net, sde
        self.dct, self.idct = dct, idct  # by FFT; a graph for a runtime that has none has others (`deploy.cosine`)
        self.register_buffer("sigma_handed", torch.tensor(float(sigma_handed)))
        self.register_buffer("sigma_data", torch.tensor(float(sigma_data)))

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, None]:
        if condition is None or condition.audio is None or condition.level is None:
            raise ValueError("a stage that goes up in rate needs the sound before it: Condition(audio=..., level=...)")
        length, before = u.shape[-1], condition.audio.shape[-1]
        if before >= length:
            raise ValueError(f"a stage of {length} samples is given {before} to go by: they must be fewer")
        band = handed(before)
        count = u.shape[0]  # which an export leaves open, and not len(u), a number
        kernel = self.sde.kernel(t)
        below, above = (float64(s).to(kernel.M) for s in (self.sigma_handed, self.sigma_data))
        s = condition.level.to(kernel.M).clamp_min(LEAST)

        def spread(low: Tensor, high: Tensor) -> Tensor:
            """A number for each band, (B,) -> as many as there are coefficients, (B, 1, N)."""
            low, high = (c.to(u)[:, None, None].expand(-1, 1, n) for c, n in ((low, band), (high, length - band)))
            return torch.cat((low.expand(count, -1, -1), high.expand(count, -1, -1)), -1)

        snr = kernel.snr
        seen = snr + s**-2, snr  # precision of what is known of x, in either band
        p = below**-2 + seen[0], above**-2 + seen[1]
        matched = kernel.matched[:, 0]
        z = self.dct(condition.audio.to(u))[..., :band]
        mean = spread(matched / p[0], matched / p[1]) * self.dct(u[:, 0])
        mean = mean + fitted((s**-2 / p[0]).to(u)[:, None, None] * z, length)
        # Var a = Λ² σ_d² + Λ = Λ σ_d² p of what is seen with the precision Λ.
        known = spread((p[0] / seen[0]).sqrt() / below, (p[1] / seen[1]).sqrt() / above) * mean
        # Of unit variance over all samples, though it has a part of the coefficients alone.
        given = (length / band / (below.square() + s.square())).sqrt().to(u)[:, None, None] * z
        over_noise = spread(p[0].sqrt(), p[1].sqrt()) * mean, fitted(s.reciprocal().to(u)[:, None, None] * z, length)
        inputs = self.idct(torch.cat((known, fitted(given, length), *over_noise), 1))
        noise, told = -(snr * above.square()).log() / 8, (s / below).log() / 4
        answer = self.net(
            inputs,
            noise.to(u).expand(count),
            replace(condition, audio=None, level=told.to(u).expand(count)),
        ).to(u.dtype)
        return self.idct(mean + spread(p[0].rsqrt(), p[1].rsqrt()) * self.dct(answer)), None
