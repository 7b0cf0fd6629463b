"""The teacher: a trained model, frozen, and no part of the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffwave_sde import checkpoint
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.guidance import Guidance

if TYPE_CHECKING:
    from diffwave_sde.loss import NoiseDraw
    from diffwave_sde.model import Model

Weights = float | tuple[float, float] | None
"""A weight of guidance, a range of them, or the model's own."""


class Teacher:
    """A frozen denoiser, with the guidance that it answers with.

    It is held by an objective without being a part of it: it is in no state_dict, it is not trained, averaged, copied
    nor compared by DDP. It is read from its checkpoint when it is first asked, and follows the states' device.

    Args:
        path: a checkpoint, a run's folder, or the name of a model that comes with the program.
        guidance: weight of the classifier-free guidance, 1 for none; null for the guidance that the model has; or two,
            a range from which `told` draws one for each example.

    Raises:
        ValueError: if a weight is negative, or a range has none between.
    """

    def __init__(self, path: str, guidance: Weights = None):
        self.range = tuple(guidance) if isinstance(guidance, Sequence) else None
        if self.range is not None and not (len(self.range) == 2 and 0 < self.range[0] < self.range[1] < math.inf):
            raise ValueError(f"guidance = {list(self.range)}: a range is two weights, the lower first, above 0")
        self.path, self.given = path, guidance
        self.weight = self.range[1] if self.range else guidance
        self.denoiser: BaseDenoiser | None = None
        self.model: Model | None = None
        self.guidance: Guidance | None = None

    @classmethod
    def of(cls, denoiser: BaseDenoiser) -> Teacher:
        """A denoiser as it is, as a teacher."""
        teacher = cls("")
        teacher.denoiser = denoiser
        return teacher

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self  # an average of the student has the same teacher

    def __reduce__(self):
        return Teacher, (self.path, self.given)

    def told(self, draw: NoiseDraw, condition: Condition | None) -> Condition | None:
        """The condition with a weight of guidance for each example, log-uniform in the range; or as it is without one.

        It follows from the mean of the noise that is drawn already, which is a standard normal number.
        """
        if self.range is None:
            return condition
        eps = draw.eps[:, 0].flatten(1).double()
        share = torch.special.ndtr(eps.mean(1) * math.sqrt(eps.shape[1]))
        low, high = (math.log(w) for w in self.range)
        return replace(condition or Condition(), guidance=(low + share * (high - low)).exp().float())

    def load(self) -> Teacher:
        """Read the checkpoint, once.

        Raises:
            FileNotFoundError, ValueError: as `checkpoint.load`.
        """
        if self.denoiser is None:
            loaded = checkpoint.load(self.path)
            self.model = loaded.module
            own = self.model.guidance or Guidance(1.0)
            # The noise levels of the model's own guidance stay: a weight says how far, not where.
            given = own if self.weight is None else Guidance(self.weight, own.sigma_min, own.sigma_max)
            self.guidance = given.supported_by(self.model.denoiser)
            self.denoiser = self.model.denoiser
        return self

    def start(self, student: Denoiser, started: bool = False) -> None:
        """Give the student the teacher's weights, unless it is `started`, and the scale of its data.

        Raises:
            ValueError: if their networks or processes differ.
        """
        denoiser = self.load().denoiser
        if not isinstance(denoiser, Denoiser):
            return
        mine, theirs = ({k: v.shape for k, v in d.net.state_dict().items()} for d in (student, denoiser))
        own = set()
        if self.range is not None:
            if not student.net.guidance:
                raise ValueError(
                    "a range of guidance takes a network that is told its weight: set --model.net.guidance"
                )
            # What the weight goes through is the student's own, and changes nothing yet.
            own = {name for name in mine.keys() - theirs.keys() if ".guidance." in f".{name}"}
        mine = {name: shape for name, shape in mine.items() if name not in own}
        wrong = next((k for k in sorted(mine.keys() | theirs.keys()) if mine.get(k) != theirs.get(k)), None)
        if wrong:
            raise ValueError(
                f"the student's network is not that of the teacher {self.path} ({wrong} differs): leave --model.net "
                "out, and the student has the teacher's"
            )
        t = torch.tensor([student.sde.t_min, 0.5 * student.sde.t_max, student.sde.t_max], dtype=torch.float64)
        mine, theirs = (d.sde.kernel(t.to(d.sigma_data.device)).snr.cpu() for d in (student, denoiser))
        if student.sde.blocks != denoiser.sde.blocks or not torch.allclose(mine, theirs, rtol=1e-6):
            raise ValueError(
                f"the student's process is not that of the teacher {self.path}: leave --model.sde out, and the student "
                "has the teacher's"
            )
        if not started:
            student.net.load_state_dict(denoiser.net.state_dict(), strict=not own)
        student.sigma_data.copy_(denoiser.sigma_data)

    @torch.no_grad()
    def __call__(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """D of the teacher, guided where it is: u (B, 1, C, T), t (B,) -> (B, C, T).

        `condition.guidance`, where it is given, takes the place of the weight.
        """
        denoiser = self.load().denoiser
        if self.guidance is None:
            return denoiser(u, t, condition)
        if denoiser.sigma_data.device != u.device:
            self.model.to(u.device)
        asked = condition is not None and condition.label is not None
        # Guided rows take two passes: only those that need it, which is one look at the GPU a call.
        acts = torch.zeros_like(t, dtype=torch.bool)
        if asked and self.guidance.weight != 1:
            acts = self.guidance.by_class(denoiser).acts(t).to(u.device) & (condition.label >= 0)
        if self.guidance.auto != 1:
            acts = acts | self.guidance.by_weak(denoiser, denoiser.weak).acts(t).to(u.device)
        rows, rest = acts.nonzero()[:, 0], (~acts).nonzero()[:, 0]
        if not len(rows):
            return denoiser(u, t, condition)
        guided = self.guidance(denoiser)(u[rows], t[rows], None if condition is None else condition[rows])
        if not len(rest):
            return guided
        D = torch.empty_like(u[:, 0])
        D[rows] = guided
        D[rest] = denoiser(u[rest], t[rest], None if condition is None else condition[rest])
        return D
