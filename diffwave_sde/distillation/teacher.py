"""The teacher: a trained model, frozen, and no part of the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffwave_sde import checkpoint
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.guidance import Guidance

if TYPE_CHECKING:
    from diffwave_sde.model import Model


class Teacher:
    """A frozen denoiser, with the guidance that it answers with.

    It is held by an objective without being a part of it: it is in no state_dict, it is not trained, averaged, copied
    nor compared by DDP. It is read from its checkpoint when it is first asked, and follows the states' device.

    Args:
        path: a checkpoint, a run's folder, or the name of a model that comes with the program.
        guidance: weight of the classifier-free guidance, 1 for none; null for the guidance that the model has.
    """

    def __init__(self, path: str, guidance: float | None = None):
        self.path, self.weight = path, guidance
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
        return Teacher, (self.path, self.weight)

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

    def start(self, student: Denoiser) -> None:
        """Give the student the teacher's weights, and the scale of its data.

        Raises:
            ValueError: if their networks or processes differ.
        """
        denoiser = self.load().denoiser
        if not isinstance(denoiser, Denoiser):
            return
        mine, theirs = ({k: v.shape for k, v in d.net.state_dict().items()} for d in (student, denoiser))
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
        student.net.load_state_dict(denoiser.net.state_dict())
        student.sigma_data.copy_(denoiser.sigma_data)

    @torch.no_grad()
    def __call__(self, u: Tensor, t: Tensor, condition: Condition | None = None) -> Tensor:
        """D of the teacher, guided where it is: u (B, 1, C, T), t (B,) -> (B, C, T)."""
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
