"""A walk along the probability flow that remembers what one step from its beginning would have to know."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from diffwave_sde.sde import SDE, broadcast_like


class Flow:
    """A state of a scalar process, moved from its time t to earlier ones, the end of time included.

    A step is DDIM's, u' = A u + a D with A = σ'/σ and a = m' - A m (Song, Meng and Ermon 2021, eq. 12), or, where the D
    before is told, DPM-Solver++(2M)'s, with D + (D - D before) h / 2 h₋ for D (Lu et al. 2022b, algorithm 2). So

        u' = A_t u_t + v,    v = Σ c_k D_k

    and one DDIM step from t that ends there as well is one whose D is v / a_t, a_t = m' - A_t m: the closed form of
    Salimans and Ho 2022, appendix G. v is kept by itself: as the difference u' - A_t u_t it would lose its digits.

    Args:
        sde: the process.
        u: the state, (B, 1, C, T).
        t: its time, (B,).
    """

    def __init__(self, sde: SDE, u: Tensor, t: Tensor):
        scalar(sde, "a flow")
        self.sde, self.t = sde, t
        self.m, self.sigma = _levels(sde, t)
        self._u, self._first, self._last = u[:, 0], (self.m, self.sigma), None
        self._v, self._A = torch.zeros_like(self._u), torch.ones_like(self.m)

    @property
    def state(self) -> Tensor:
        """The state at `t`, (B, 1, C, T)."""
        return (broadcast_like(self._A, self._u) * self._u + self._v)[:, None]

    @property
    def implied(self) -> Tensor:
        """The D of which one DDIM step from the beginning ends here, (B, C, T)."""
        m, _ = self._first
        a = self.m - self._A * m
        return self._v / broadcast_like(torch.where(a == 0, 1.0, a), self._v)

    def step(self, D: Tensor, s: Tensor, second_order: bool = False) -> None:
        """To the times s (B,), before t, or 0 for the sound itself, by D (B, C, T) at t.

        Where s is t nothing moves. `second_order` counts on the D of the step before, if there was one.
        """
        m, sigma = _levels(self.sde, s)
        A = torch.where(s == self.t, 1.0, sigma / self.sigma)
        a = m - A * self.m
        h = (m / sigma).log() - (self.m / self.sigma).log()  # infinite to the sound
        moved = D
        if second_order and self._last is not None:
            before, h_before = self._last
            ratio = torch.where(h.isfinite() & (h_before > 0), 0.5 * h / h_before, 0.0)
            moved = D + broadcast_like(ratio, D) * (D - before)
        self._v = broadcast_like(A, D) * self._v + broadcast_like(a, D) * moved
        self._A = A * self._A
        self._last = D, h
        self.t, self.m, self.sigma = s, m, sigma

    def walk(self, denoise: Callable[[Tensor, Tensor], Tensor], times: Tensor, second_order: bool = False) -> Tensor:
        """To each of the times (K, B) in turn, by denoise(u, t) -> D; then the state, (B, 1, C, T)."""
        for s in times:
            self.step(denoise(self.state, self.t), s, second_order)
        return self.state

    def halve(self, denoise: Callable[[Tensor, Tensor], Tensor], times: Tensor) -> Tensor:
        """As `walk`, each step by D halfway in log σ: DPM-Solver++(2S), two calls a step, order 2 from the first on.

        Source: Lu et al. 2022b, algorithm 1.
        """
        for s in times:
            middle, ahead = between(self.sde, self.t, s, 2)[0], copy.copy(self)
            ahead.step(denoise(self.state, self.t), middle)
            self.step(denoise(ahead.state, middle), s)
        return self.state


def between(sde: SDE, t: Tensor, r: Tensor, count: int) -> Tensor:
    """`count` times after t (B,), equal steps of log σ, the last of them r (B,); to 0 by way of t_min: (count, B)."""
    if count == 1:
        return r[None]
    first = sde.kernel(t).snr.log()
    last = sde.kernel(r.clamp_min(sde.t_min)).snr.log()
    share = torch.arange(1, count, dtype=first.dtype, device=first.device)[:, None] / count
    inner = sde.time((first + share * (last - first)).exp().flatten()).reshape(count - 1, -1)
    return torch.cat((torch.minimum(inner, t), r[None]))


def scalar(sde: SDE, who: str) -> None:
    """Raise a ValueError of one line if the process has more than one block."""
    if sde.blocks > 1:
        raise ValueError(
            f"{who} needs a process of one block, and {type(sde).__name__} has {sde.blocks}: DDIM's step there moves "
            "more than D tells; distil a model of VE, EDM, VP or another scalar process"
        )


def _levels(sde: SDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """(m, σ) (B,) at t (B,); at 0 those of the sound itself, (1, 0), whatever noise a process has there."""
    kernel = sde.kernel(t.clamp_min(sde.t_min * 1e-3))
    end = t == 0
    return torch.where(end, 1.0, kernel.M[:, 0]), torch.where(end, 0.0, kernel.L[:, 0, 0])
