"""The sampler to take where none is asked for."""

from __future__ import annotations

from torch import Tensor

from diffwave_sde.samplers.base import GridSampler, Progress, Sampler, SamplingState
from diffwave_sde.samplers.exponential import DPMSolverSDE
from diffwave_sde.samplers.grids import Grid, LogNormalGrid
from diffwave_sde.samplers.ode import DDIM
from diffwave_sde.sde import SDE


class DefaultSampler(Sampler):
    """The sampler of choice for the process: DPMSolverSDE, and DDIM for a state of two blocks, which that cannot take.

    A little fresh noise forgets the errors that a network makes on the way; more of it where they are heard as a
    wavering costs little there, for steps are short (docs/samplers.md).

    Args:
        steps: steps, and network calls.
        grid: where the steps lie; LogNormalGrid by default, and DDIM's own.
        eta: share of fresh noise: 0 is the flow, 1 the process's own; of no use to DDIM here, which takes the flow.
        eta_low_noise: the same below a noise level σ = 1 / √snr of 0.3; null for `eta`.
        noise: standard deviation of the fresh noise over the process's own, a little above 1 against tails that fall
            too fast.
    """

    def __init__(
        self,
        steps: int = 28,
        grid: Grid | None = None,
        eta: float = 0.3,
        eta_low_noise: float | None = 1.0,
        noise: float = 1.0,
    ):
        self.steps, self.grid, self.eta, self.eta_low_noise, self.noise = steps, grid, eta, eta_low_noise, noise
        DPMSolverSDE(steps, grid, eta, eta_low_noise, noise=noise)  # refuses what it would refuse later

    def resolve(self, sde: SDE) -> GridSampler:
        sampler = DPMSolverSDE(self.steps, self.grid or LogNormalGrid(), self.eta, self.eta_low_noise, noise=self.noise)
        return sampler if sampler.supports(sde) else DDIM(self.steps, self.grid)

    def solve(self, state: SamplingState, u: Tensor, progress: Progress | None) -> Tensor:
        return self.resolve(state.denoiser.sde).solve(state, u, progress)
