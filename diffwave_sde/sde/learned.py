r"""Variational diffusion (VDM): the noise schedule γ(t) is learned with the network. Source: Kingma et al. 2021.

    σ² = sigmoid(γ),  m² = sigmoid(-γ),  SNR = exp(-γ)                      eq. 3 to 5
    loss of the network = E_t [L],    L = ½ γ'(t) |ε - ε̂|²,  t uniform      eq. 17
    loss of γ           = E_t [L²]                                          appendix I.2

Between its ends γ does not change E_t [L] (§ 5.1), so it is trained to make L vary least about that mean. As
∇L² = 2 L ∇L, one backward pass of L serves both losses: on its way to γ the gradient is multiplied by 2 L.

In the code: L is `Loss` with `LikelihoodWeight` (loss/weights.py) and `UniformTime`; γ and γ' are `VDM.gamma`; the loss
gives its L to `VDM.observe`, and `VDM._to_square` puts the factor 2 L on the way of the gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffwave_sde.sde.kernel import float64
from diffwave_sde.sde.process import SDE


def _to_square(self: VDM, a: Tensor) -> Tensor:
    """`a` (B,), whose gradient in the backward pass is multiplied by 2 L."""
    if a.requires_grad:
        a.register_hook(lambda gradient: gradient if self._factor is None else gradient * self._factor.to(gradient))
    return a


class VDM(SDE):
    """Variance preserving with a learned monotone log-SNR, γ(t) = -log SNR.

        γ(t) = γ_min + (γ_max - γ_min) (n(t) - n(0)) / (n(1) - n(0)),    n(t) = a t + Σ c_k sigmoid(r_k (t - b_k))

    with a, c_k, r_k > 0.
    The ends are given: between the last call of the denoiser and the sound no decoder is learned that could move them.
    Its parameters are trained by `LikelihoodWeight` at uniform times, and by nothing else.

    Args:
        gamma_min: γ(0) = -log SNR(0), nepers (of power); -16 is noise at -69 dBFS, the published -13.3 at -58.
        gamma_max: γ(1), nepers (of power). Published: 5.
        hidden: number of sigmoids in n.
    """

    _to_square = _to_square

    def __init__(self, gamma_min: float = -16.0, gamma_max: float = 8.0, hidden: int = 64):
        super().__init__()
        if VDM._to_square is _to_square:
            # PyTorch 2.11 fails to trace the hook. Here, not as a decorator: it imports all of PyTorch's compiler,
            # half of the time that `diffwave-sde sample` takes to begin.
            VDM._to_square = torch.compiler.disable(_to_square)
        if gamma_min >= gamma_max:
            raise ValueError(f"gamma_min = {gamma_min:g} must be below gamma_max = {gamma_max:g}")
        if hidden < 1:
            raise ValueError(f"hidden = {hidden}: need at least one")
        self.gamma_min, self.gamma_max = gamma_min, gamma_max
        # Nearly a straight line to begin with, and free to bend anywhere: the positive ones are softplus of these.
        self.slope = nn.Parameter(_inverse_softplus(torch.ones(1)))
        self.heights = nn.Parameter(_inverse_softplus(torch.full((hidden,), 0.1 / hidden)))
        self.rates = nn.Parameter(_inverse_softplus(torch.full((hidden,), 10.0)))
        self.places = nn.Parameter((torch.arange(hidden) + 0.5) / hidden)
        self._factor: Tensor | None = None

    def observe(self, losses: Tensor) -> None:
        self._factor = 2 * losses.detach()  # ∇L² = 2 L ∇L: Kingma et al. 2021, appendix I.2

    def gamma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """γ(t) and γ'(t), (B,), float64, for t (B,)."""
        t = float64(t)
        slope, heights, rates = (functional.softplus(p.to(t)) for p in (self.slope, self.heights, self.rates))
        places = self.places.to(t)

        def n(t: Tensor) -> Tensor:
            return slope * t + (heights * torch.sigmoid(rates * (t[..., None] - places))).sum(-1)

        start, end = n(torch.zeros_like(t[:1])), n(torch.ones_like(t[:1]))
        wave = torch.sigmoid(rates * (t[..., None] - places))
        rate = slope + (heights * rates * wave * (1 - wave)).sum(-1)
        share, rate = (self._to_square(a / (end - start)) for a in (n(t) - start, rate))
        width = self.gamma_max - self.gamma_min
        return self.gamma_min + width * share, width * rate

    def drift(self, t: Tensor) -> Tensor:
        gamma, rate = self.gamma(t)
        return (-0.5 * torch.sigmoid(gamma) * rate)[:, None, None]

    def diffusion(self, t: Tensor) -> Tensor:
        gamma, rate = self.gamma(t)
        return (torch.sigmoid(gamma) * rate).sqrt()[:, None]

    def transition(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        # Kingma et al. 2021, appendix A.1: α_t / α_s and 1 - α_t² / α_s², with log α² = -softplus(γ).
        log_power = functional.softplus(self.gamma(s)[0]) - functional.softplus(self.gamma(t)[0])
        return (0.5 * log_power).exp()[:, None, None], -torch.expm1(log_power)[:, None, None]

    def mean0(self, like: Tensor) -> Tensor:
        return torch.sigmoid(torch.full_like(like, -self.gamma_min)).sqrt()[:, None]

    def cov0(self, like: Tensor) -> Tensor:
        return torch.sigmoid(torch.full_like(like, self.gamma_min))[:, None, None]


def _inverse_softplus(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
