"""A wrapper by which a sound's last sample meets its first, so that it can be played in a loop."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from diffwave_sde.denoiser import Condition, Nodes, Wrapper

TURNS = 61.8033988749895
"""How far round a change of the time by a factor of e goes: neighbouring steps cut the circle in places far apart."""


class Looped(Wrapper):
    """A denoiser of sounds on a circle: at every time the state is cut open in another place.

        D(u, t) = roll⁻¹ D(roll u, t)

    A denoiser that knows windows of a sound takes the cut for a beginning and an end. It is never there for long, so
    what it would make of either is overruled at the next step, where the same samples lie in the middle of a window. Of
    sounds whose law is the same on all of the circle it changes nothing.

    Source: Bar-Tal et al. 2023 (MultiDiffusion: one denoiser on overlapping windows of a larger state), with one window
    a step in place of their mean.
    """

    def predict(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
        share = _share(t)
        D, variance = self.denoiser.predict(turned(u, share), t, turned_condition(condition, share, u))
        return turned(D, -share), None if variance is None else turned(variance, -share)

    def nodes(self, times: Tensor, like: Tensor) -> Nodes:
        inner, shares = self.denoiser.nodes(times, like), _share(times)

        def at(u: Tensor, i: int, condition: Condition | None = None) -> tuple[Tensor, Tensor | None]:
            share = shares[i]
            D, variance = inner(turned(u, share), i, turned_condition(condition, share, u))
            return turned(D, -share), None if variance is None else turned(variance, -share)

        return at


def _share(t: Tensor) -> Tensor:
    """The part of the circle by which a state at t is turned, 0 to 1, of t's shape."""
    return (t.double().clamp_min(1e-12).log() * TURNS) % 1


def turned(x: Tensor, share: Tensor) -> Tensor:
    """x (B, ..., T), each of its examples turned by a share of its length; `share` is (B,), or one number for all."""
    length = x.shape[-1]
    shift = (share.abs() * length).floor().long() * share.sign().long()
    places = torch.arange(length, device=x.device) - shift.to(x.device)[..., None]
    places = (places % length).reshape(-1, *(1,) * (x.ndim - 2), length)
    return x.gather(-1, places.expand(x.shape))


def turned_condition(condition: Condition | None, share: Tensor, like: Tensor) -> Condition:
    """What is asked for, its context turned with the sounds `like` (B, ...); and how far, which a network may go by."""
    condition = condition or Condition()
    turn = share.to(like.device).expand(like.shape[0])
    turn = turn if condition.turn is None else condition.turn + turn
    context = None if condition.audio is None else turned(condition.audio, share)
    return replace(condition, audio=context, turn=turn)
