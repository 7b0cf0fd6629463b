r"""Distillation: few calls of a student for what takes a teacher many.

Teacher and student are denoisers of one scalar process. On the probability flow of the teacher a state is moved by
DDIM's steps,

    u_s = A u_t + a D,    A = σ_s / σ_t,  a = m_s - A m_t

so a student whose one step from t to s is to end where the flow does has a target in closed form (`flow.Flow`). To the
end of time, where the state is the sound itself, A = 0 and a = 1: there D is a consistency function.

    ProgressiveDistillation   some steps of the teacher are one of the student    (Salimans and Ho 2022)
    ConsistencyDistillation   D(u_t, t) = D(u_r, r), u_r on the teacher's flow    (Song et al. 2023)
    ConsistencyTuning         the same, u_r of the same sound and noise           (Geng et al. 2024)
    ContinuousConsistency     D stands still along the flow: no second time       (Lu and Song 2024)
"""

from diffwave_sde.distillation.consistency import ConsistencyDistillation, ConsistencyTuning
from diffwave_sde.distillation.continuous import ContinuousConsistency
from diffwave_sde.distillation.flow import Flow
from diffwave_sde.distillation.progressive import GridTime, ProgressiveDistillation
from diffwave_sde.distillation.teacher import Teacher

__all__ = [
    "ConsistencyDistillation",
    "ConsistencyTuning",
    "ContinuousConsistency",
    "Flow",
    "GridTime",
    "ProgressiveDistillation",
    "Teacher",
]
