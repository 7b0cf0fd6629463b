"""What is done to a sound: parts made anew, variations, the way between two, latents, more of it, repairs.

An `Editor` holds how sounds are made; its methods take windows as the model sees them (`preparation`), and give new
ones.
In Python::

    model = checkpoint.load("drums")
    sound = prepare("kick.wav", model.length, model.rate)
    editor = Editor(model, label=1)
    for window in editor.vary(sound.cut.window, strength=0.4, numbers=range(8)):
        audio.write("new.wav", sound.give_back(window), sound.rate)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffwave_sde import audio
from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.clipping import CLIPS
from diffwave_sde.denoiser import BaseDenoiser, Condition
from diffwave_sde.editing.latents import decode, encode, slerp
from diffwave_sde.editing.posterior import LinearGaussian, LinearPosterior
from diffwave_sde.editing.projection import KnownSamples
from diffwave_sde.model import Mixes
from diffwave_sde.random import randn, stream
from diffwave_sde.samplers import DDIM, GridSampler, LangevinCorrector, RePaint, Sampler
from diffwave_sde.samplers.base import Progress
from diffwave_sde.samplers.repeated import starting_at
from diffwave_sde.sde import apply, embed_waveform

METHODS = ("projection", "posterior")

Wrap = Callable[[BaseDenoiser], BaseDenoiser]


def level_time(denoiser: BaseDenoiser, strength: float) -> float | None:
    """The time at which noise has this share of the state, σ / (σ + σ_data); None where that is t_max, or beyond."""
    if strength >= 1:
        return None
    sde, sigma = denoiser.sde, float(denoiser.sigma_data) * strength / (1 - strength)
    t = float(sde.time(torch.tensor([sigma**-2], dtype=torch.float64)))
    return None if t >= sde.t_max else max(t, sde.t_min * 1.001)


@dataclass(frozen=True)
class Batch:
    """Some of an editor's results, and where they begin.

    numbers: of the results; generators: of each.
    begin: gives the states (n, S, 1, T) at t of such numbers, or None for the prior's at t_max.
    t: the time, or None for t_max.
    length: samples.
    wrap: what the denoiser is wrapped in, or None.
    report: called with (steps done, steps in all).
    """

    numbers: Sequence[int]
    generators: list[torch.Generator]
    begin: Callable[[Sequence[int], list[torch.Generator]], Tensor] | None
    t: float | None
    length: int
    wrap: Wrap | None
    report: Progress

    @property
    def states(self) -> Tensor:
        """What they begin with."""
        return self.begin(self.numbers, self.generators)


@dataclass
class Editor:
    """How sounds are made.

    model: with the guidance that it is to have.
    label: class that is asked for; -1 for none; K + j, where the model has K classes, for mixes[j].
    mixes: class mixes, shares by class.
    sampler: one whose steps lie on a grid; the model's own by default.
    seed: of the noise; result number i of a seed is the same however many are made.
    clip: none, static or dynamic, as for new sounds.
    correct: Langevin steps after each step, for mixes and guidance (`samplers.LangevinCorrector`).
    repeats: how often each step is taken where a part is known (`samplers.RePaint`).
    batch_size: results made at a time.
    progress: called with (steps done, steps in all).
    track: what the sound goes with, (T',), mono, at the model's rate, begun at the moment at which the file begins.
    at: sample of the track at which the window begins (`placed`).

    Raises:
        ValueError: if the sampler's steps lie on no grid, or there is a track and the model hears none.
    """

    model: LoadedModel
    label: int = -1
    mixes: Mixes = ()
    sampler: Sampler | None = None
    seed: int = 0
    clip: str = "none"
    correct: int = 0
    repeats: int = 1
    batch_size: int = 16
    progress: Progress | None = None
    track: Tensor | None = None
    at: int = 0

    def __post_init__(self) -> None:
        if self.track is not None:
            self.model.check_hears("a track")
        chosen = (self.sampler or self.model.module.sampler).resolve(self.sde)
        if not chosen.on_grid:
            raise ValueError(
                f"{type(chosen).__name__} chooses its steps by what it meets: to change a sound takes steps on a "
                "grid, such as DDIM or DPMSolverSDE"
            )
        self.grid_sampler = chosen

    @property
    def sde(self):
        return self.model.module.denoiser.sde

    def placed(self, at: int) -> Editor:
        """The same for a window that begins at sample `at` of the file, at the model's rate."""
        return replace(self, at=at)

    # New sounds beside known parts

    def inpaint(self, x: Tensor, free: Tensor, numbers: Sequence[int] = (0,), method: str = "projection") -> Tensor:
        """x (T,) with the samples where `free` (T,) is true made anew, once for each number: (n, T).

        Source: Lugmayr et al. 2022, see `projection.Projected`; or Rozet et al. 2024, see `posterior.LinearPosterior`.

        Args:
            x: the window.
            free: which samples to make.
            numbers: of the results.
            method: projection; or posterior, which takes 4 backward passes a step and fits better to what follows.
        """
        if method not in METHODS:
            raise ValueError(f"method = {method!r}: choose {' or '.join(METHODS)}")
        if not bool(free.any()):
            return x.expand(len(numbers), -1).clone()
        known = self._companded(x)
        if method == "posterior" and not bool(free.all()):
            there = known[~free][None, None]
            likelihood = LinearGaussian(lambda D: D[..., ~free.to(D.device)], there)
            made = self._from_prior(len(x), numbers, lambda d: LinearPosterior(d, likelihood))
        else:
            made = self._from_prior(len(x), numbers, KnownSamples(known, free))
        return torch.where(free, made, x)

    def vary(self, x: Tensor, strength: float, numbers: Sequence[int] = (0,), free: Tensor | None = None) -> Tensor:
        """Variations of x (T,): noised to a level, and back; (n, T).

        Source: Meng et al. 2022 (SDEdit), algorithm 1.

        Args:
            x: the window.
            strength: share of noise in the state that is gone back from, σ / (σ + σ_data): at 0 x itself, at 1 new
                sounds, those of the plain sampler.
            numbers: of the results.
            free: samples (T,) that may change; all by default.
        """
        if not 0 <= strength <= 1:
            raise ValueError(f"strength = {strength:g} must lie between 0, the sound itself, and 1, a new one")
        if strength == 0 or (free is not None and not bool(free.any())):
            return x.expand(len(numbers), -1).clone()
        known = self._companded(x)
        wrap = None if free is None else KnownSamples(known, free)
        t = self.time_of(strength)
        if t is None:
            made = self._from_prior(len(x), numbers, wrap)
        else:
            made = self._run(numbers, lambda some, g: self._noised(known.expand(len(some), 1, -1), t, g), t, wrap)
        return made if free is None else torch.where(free, made, x)

    def time_of(self, strength: float) -> float | None:
        """As `level_time`, of the editor's model."""
        return level_time(self.model.module.denoiser, strength)

    def extend(
        self, x: Tensor, have: int, total: int, numbers: Sequence[int] = (0,), method: str = "projection"
    ) -> Tensor:
        """The first `have` samples of x gone on with, window after window, up to `total`: (n, total).

        A window knows what there is of it: all from the onset on while a quarter of it is left to make, else half a
        window. Of what it adds the last tenth is dropped where more follows, since windows end in a fade.
        """
        length, results = self.model.length, []
        for number in numbers:
            y, have_now, turn = x[:have], have, 0
            while have_now < total:
                # The model knows sounds from their onset on, so the first window begins there while it has room.
                first = 0 if have_now <= 3 * length // 4 else have_now - length // 2
                window = torch.cat((y[first:have_now], y.new_zeros(length)))[:length]
                free = torch.arange(length) >= have_now - first
                made = self.placed(self.at + first).inpaint(window, free, [number * 1000 + turn], method)[0]
                more = first + length < total and not self.model.hears  # parts of a track end in no fade
                end = length - round(audio.FADE * length) if more else length
                y, have_now, turn = torch.cat((y[:first], made[:end])), first + end, turn + 1
            results.append(y[:total])
        return torch.stack(results)

    # Between two sounds

    def interpolate(
        self,
        a: Tensor,
        b: Tensor,
        count: int = 7,
        space: str = "latent",
        strength: float = 0.5,
        shares: Sequence[float] | None = None,
    ) -> Tensor:
        """`count` sounds from a (T,) to b (T,), which are the first and the last: (count, T).

        Source: Song et al. 2021, appendix D.6 (latents); Ho et al. 2020, appendix, figure 9 (at a noise level).

        Args:
            a, b: windows.
            count: at least 2.
            space: latent, along the great circle between the latents of the probability flow; or noise, between both
                sounds with the same noise, which keeps more of them.
            strength: the level of that noise, as of `vary`.
            shares: how far from a, 0 to 1, each of those between lies, in place of `count` at equal distances.
        """
        count = count if shares is None else len(shares) + 2
        if count < 2:
            raise ValueError(f"{count} steps: there are 2 ends already")
        if space not in ("latent", "noise"):
            raise ValueError(f"space = {space!r}: choose latent or noise")
        shares = [i / (count - 1) for i in range(1, count - 1)] if shares is None else list(shares)
        if torch.equal(a, b):
            return a.expand(count, -1).clone()
        if not shares:
            return torch.stack((a, b))
        if space == "latent":
            u, v = self.encode(a), self.encode(b)
            between = torch.cat([slerp(u, v, share) for share in shares])
            made = self.decode(between)
        else:
            t = self.time_of(strength) or self.sde.t_max
            x = self._companded(torch.stack((a, b)))[:, None]
            # The same noise for both, so that what is between them is as noisy as they are.
            u = self._noised(x, t, [stream(self.seed, "interpolation")] * 1, shared=True)
            between = torch.cat([slerp(u[:1], u[1:], share) for share in shares])
            made = self._run(range(len(shares)), lambda some, g: between[list(some)], t, None)
        return torch.cat((a[None], made, b[None]))

    # Latents

    def flow(self) -> DDIM:
        """The sampler of the latents: that of the editor if it is DDIM, else DDIM on 50 steps of Karras's grid."""
        own = self.grid_sampler
        if isinstance(own, DDIM) and not own.eta and self.sampler is not None:
            return own
        return DDIM(50)

    def encode(self, x: Tensor, iterations: int = 100) -> Tensor:
        """The states (1, S, 1, T) at t_max that the probability flow leads to x (T,) from."""
        return encode(
            self._denoiser(None),
            self._coded(self._companded(x)[None, None].to(self._device)),
            self.flow(),
            self._condition(1),
            iterations,
            1e-8,  # of the state, whose noise is hundreds of times as loud as a sound
            self.progress,
        )

    def decode(self, u: Tensor) -> Tensor:
        """The sounds (n, T) that states (n, S, 1, T) at t_max lead to."""
        x = decode(self._denoiser(None), u.to(self._device), self.flow(), self._condition(len(u)), self.progress)
        return self._expanded(self._sounded(x, self.model.length))

    # Repairs

    def given(
        self,
        length: int,
        wrap: Wrap,
        numbers: Sequence[int] = (0,),
        start: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Sounds (n, length) of a denoiser that is wrapped in what is known of them (`posterior`, `projection`).

        Args:
            length: samples.
            wrap: the wrapper, which works on companded waveforms.
            numbers: of the results.
            start: a sound (T,) and a strength, as of `vary`, to go back from; by default all begins with noise.
        """
        t = None if start is None else self.time_of(start[1])
        if t is None:
            return self._from_prior(length, numbers, wrap)
        x = self._companded(start[0])
        return self._run(numbers, lambda some, g: self._noised(x.expand(len(some), 1, -1), t, g), t, wrap)

    def denoise(self, z: Tensor, noise: float, numbers: Sequence[int] = (0,)) -> Tensor:
        """Sounds (n, T) given z = x + n (T,) with white n of the standard deviation `noise`, exactly.

        z is what a state at the noise level σ = noise says of x, so the process is gone back from there; a state of two
        blocks is drawn so that it says just that.

        Raises:
            ValueError: if the model is of companded sounds, whose noise is not white.
        """
        if self.model.mu:
            raise ValueError(
                f"{self.model.path} is of companded sounds (mu = {self.model.mu:g}), where noise is not white"
            )
        t = float(self.sde.time(torch.tensor([noise**-2], dtype=torch.float64)))
        t = min(max(t, self.sde.t_min * 1.001), self.sde.t_max)

        def begin(some: Sequence[int], generators: list[torch.Generator]) -> Tensor:
            kernel = self.sde.kernel(torch.tensor([t], dtype=torch.float64))
            x = z.to(self._device).expand(len(some), 1, -1)
            eps = randn((len(some), self.sde.blocks, 1, len(z)), generators, device=self._device)
            # Noise that the matched filter does not see: ε less its part along h = L⁻¹ M.
            h = (kernel.whitened / kernel.snr.sqrt()[:, None]).to(eps)[..., None, None]
            eps = eps - h * (h * eps).sum(1, keepdim=True)
            return embed_waveform(kernel.M, x) + apply(kernel.L, eps)

        return self._run(numbers, begin, t, None)

    # How

    def _from_prior(self, length: int, numbers: Sequence[int], wrap: Wrap | None) -> Tensor:
        return self._run(numbers, None, None, wrap, length)

    def _noised(self, x: Tensor, t: float, generators: list[torch.Generator], shared: bool = False) -> Tensor:
        """States (n, S, 1, T) at t of companded sounds x (n, 1, T)."""
        x = self._coded(x.to(self._device))
        eps = randn((1 if shared else len(x), self.sde.blocks, 1, x.shape[-1]), generators, device=self._device)
        kernel = self.sde.kernel(torch.tensor([t], dtype=torch.float64))
        return kernel.sample(x, eps.expand(len(x), -1, -1, -1))

    def _coded(self, x: Tensor) -> Tensor:
        """What the states are of: the companded sounds x (n, 1, T) themselves."""
        return x

    def _sounded(self, x: Tensor, length: int) -> Tensor:
        """Companded sounds (n, 1, length) from what a sampler gives."""
        return x

    def _run(
        self,
        numbers: Sequence[int],
        begin: Callable[[Sequence[int], list[torch.Generator]], Tensor] | None,
        t: float | None,
        wrap: Wrap | None,
        length: int | None = None,
    ) -> Tensor:
        """From states at t, or the prior's at t_max, to sounds (n, T)."""
        length = length or self.model.length
        sampler = self.grid_sampler if t is None else starting_at(self.grid_sampler, self.sde, t)
        if self.correct:
            sampler = LangevinCorrector(sampler.steps, sampler.grid, sampler, self.correct)
        if wrap is not None and self.repeats > 1:
            sampler = RePaint(sampler.steps, sampler.grid, sampler, self.repeats)
        numbers, made = list(numbers), []
        for first in range(0, len(numbers), self.batch_size):
            some = numbers[first : first + self.batch_size]

            def report(done: int, steps: int, first: int = first, more: int = len(some)) -> None:
                if self.progress is not None:
                    self.progress(first * steps + more * done, len(numbers) * steps)

            generators = self.model.module.generators(some, self.seed)
            batch = Batch(some, generators, begin, t, length, wrap, report)
            made.append(self._expanded(self._sample(sampler, batch)))
        self.nfe = sampler.nfe
        return torch.cat(made)

    def _sample(self, sampler: GridSampler, batch: Batch) -> Tensor:
        """Some of the results, companded, (n, 1, T)."""
        prior = (len(batch.numbers), 1, batch.length)
        u = self.sde.prior(prior, batch.generators, self._device) if batch.begin is None else batch.states
        condition = self._condition(len(batch.numbers))
        return sampler(self._denoiser(batch.wrap), u, condition, batch.generators, batch.report)

    def _denoiser(self, wrap: Wrap | None) -> BaseDenoiser:
        clip = CLIPS.get(self.clip)

        def both(denoiser: BaseDenoiser) -> BaseDenoiser:
            denoiser = denoiser if clip is None else clip(denoiser)
            return denoiser if wrap is None else wrap(denoiser)

        return self.model.module.wrapped(None if clip is wrap is None else both, mixes=self.mixes)

    def _condition(self, count: int) -> Condition:
        label = torch.full((count,), self.label, device=self._device)
        return Condition(label, None if self.track is None else self._heard().expand(count, 1, -1))

    def _heard(self) -> Tensor:
        """The track as long as a window, from where that begins, companded; silence beyond its ends."""
        end = self.at + self.model.length
        there = self.track[max(self.at, 0) : max(end, 0)]
        before = max(min(-self.at, self.model.length), 0)
        there = torch.nn.functional.pad(there, (before, self.model.length - before - len(there)))
        return self._companded(there).to(self._device, torch.float32)

    @property
    def _device(self) -> torch.device:
        return self.model.module.denoiser.sigma_data.device

    def _companded(self, x: Tensor) -> Tensor:
        return audio.compress(x, self.model.mu)

    def _expanded(self, x: Tensor) -> Tensor:
        """Waveforms (n, T) from what a sampler gives, (n, 1, T)."""
        return audio.expand(x[:, 0].float(), self.model.mu).cpu()
