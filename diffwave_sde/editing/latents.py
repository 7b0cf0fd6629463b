r"""Latents of the probability flow: the state at t_max that leads to a sound, found step by step and without noise.

A step of DDIM, u' = a D(u) + A u from t down to s, is undone by solving for u:

    u = A⁻¹ (u' - a D(u, t)),

a fixed point, found by iterating from u = A⁻¹ (u' - a D(u', s)). It contracts where a step is short; `decode` on the
same grid then comes back to the sound to the tolerance, whatever the error of the flow itself. Source: Song et al. 2021
(DDIM), section 4.3, for the reversal; Pan et al. 2023, section 3.2, for the fixed point.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.samplers import DDIM
from diffwave_sde.samplers.base import Progress
from diffwave_sde.sde import apply, embed_waveform


@torch.no_grad()
def encode(
    denoiser: BaseDenoiser,
    x: Tensor,
    sampler: DDIM,
    condition: Condition | None = None,
    iterations: int = 100,
    tolerance: float = 1e-5,
    progress: Progress | None = None,
) -> Tensor:
    """The states (B, S, C, T) that `decode` by the same sampler leads to the sounds x (B, C, T).

    Args:
        denoiser: of the model, or a wrapper.
        x: waveforms, companded as the training data was.
        sampler: with η = 0; its grid is gone upwards.
        condition: what the sounds are.
        iterations: the most network calls for each step.
        tolerance: change of the state, relative to its own RMS, at which a step is found.
        progress: called with (steps done, steps in all).

    Raises:
        ValueError: if the sampler draws noise.
    """
    if sampler.eta:
        raise ValueError(f"eta = {sampler.eta:g}: a sound has latents of the flow alone; set it to 0")
    sde = denoiser.sde
    times = sampler.grid(sde, sampler.steps)
    nodes = denoiser.nodes(times, x)
    kernel = sde.kernel(times[-1:])
    u = embed_waveform(kernel.M, x)
    plan = [tuple(c.to(u) for c in row) for row in sampler.plan(denoiser, times)]
    # At t_min the sound is D of the state: the state whose D is x.
    u = _fixed_point(
        lambda v: u + embed_waveform(kernel.M, x - nodes(v, len(times) - 1, condition)[0]), u, iterations, tolerance
    )
    for done, i in enumerate(reversed(range(len(plan))), 1):
        a, A, _ = plan[i]
        back = torch.linalg.inv(A.double()).to(A)
        end = u

        def before(v: Tensor, i: int = i, a: Tensor = a, back: Tensor = back, end: Tensor = end) -> Tensor:
            return apply(back, end - embed_waveform(a, nodes(v, i, condition)[0]))

        # The first guess takes D from the lower end of the step, where the state is known.
        guess = apply(back, end - embed_waveform(a, nodes(end, i + 1, condition)[0]))
        u = _fixed_point(before, guess, iterations, tolerance)
        if progress is not None:
            progress(done, len(plan))
    return u


@torch.no_grad()
def decode(
    denoiser: BaseDenoiser,
    u: Tensor,
    sampler: DDIM,
    condition: Condition | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """The sounds (B, C, T) that states (B, S, C, T) at t_max lead to: `encode` undone."""
    return sampler(denoiser, u, condition, None, progress)


def _fixed_point(f: Callable[[Tensor], Tensor], u: Tensor, iterations: int, tolerance: float) -> Tensor:
    """u with f(u) = u, example by example, as near as any of the iterations came.

    Where D is steep the plain iteration leaps to and fro across it: each time that it comes no nearer it goes on from
    the best so far, by half as much.
    """
    best, move = u, f(u) - u
    distance = _rms(move)
    stride = torch.ones_like(distance)
    for _ in range(iterations - 1):
        if bool(((distance <= tolerance * _rms(best)) | (stride < 1e-2)).all()):
            break  # as near as asked for, or as the numbers allow
        u = best + stride * move
        new = f(u) - u
        nearer = _rms(new) < distance
        best, move = torch.where(nearer, u, best), torch.where(nearer, new, move)
        distance, stride = torch.where(nearer, _rms(new), distance), torch.where(nearer, stride, stride / 2)
    return best + stride * move


def _rms(u: Tensor) -> Tensor:
    """Of each example, (B, 1, ...)."""
    return u.square().mean(tuple(range(1, u.ndim)), keepdim=True).sqrt()


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """The point between two states (B, ...) on the great circle through them; at share 0 it is a, at 1 b.

    Norms are interpolated, directions turned. (Anti)parallel directions fall back on the straight line.
    Source: Shoemake 1985.
    """
    if share in (0, 1):
        return (b if share else a).clone()
    flat_a, flat_b = a.double().flatten(1), b.double().flatten(1)
    norm_a, norm_b = flat_a.norm(dim=1, keepdim=True), flat_b.norm(dim=1, keepdim=True)
    cosine = ((flat_a / norm_a) * (flat_b / norm_b)).sum(1, keepdim=True).clamp(-1, 1)
    angle = cosine.acos()
    sine = angle.sin()
    round_ = (((1 - share) * angle).sin() / sine) * flat_a / norm_a + ((share * angle).sin() / sine) * flat_b / norm_b
    between = torch.where(
        sine.abs() < 1e-6, (1 - share) * flat_a + share * flat_b, round_ * ((1 - share) * norm_a + share * norm_b)
    )
    return between.nan_to_num(0.0).view_as(a).to(a)
