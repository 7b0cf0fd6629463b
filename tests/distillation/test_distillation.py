"""Of Gaussian data the flow is known: every state stays at its quantile. What a student learns is held to that."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from truth import GAUSSIAN, MIXTURE, PARAMETRIZATIONS, PROCESSES, Mixture, Oracle, close, concrete, tensor

from diffwave_sde import checkpoint
from diffwave_sde.denoiser import BaseDenoiser, Condition, Denoiser
from diffwave_sde.distillation import (
    ConsistencyDistillation,
    ConsistencyTuning,
    ContinuousConsistency,
    Flow,
    ProgressiveDistillation,
    Teacher,
)
from diffwave_sde.distillation.continuous import along_the_flow
from diffwave_sde.guidance import Guidance
from diffwave_sde.loss import NoiseDraw, Objective
from diffwave_sde.parametrization import Consistency, Karras
from diffwave_sde.samplers import DDIM, ConsistencySampler, DPMSolver2M, JumpGrid, KarrasGrid, TimesGrid, UniformGrid
from diffwave_sde.sde import CLD, EDM, VE, VP, MeanSigma

SCALAR = {"EDM": EDM(2e-3, 80.0), "VE": VE(0.01, 50.0), "VP": VP(), "MeanSigma": MeanSigma()}
STD = GAUSSIAN.std


def spread(sde, t):
    """The standard deviation of the states at t (B,)."""
    kernel = sde.kernel(t)
    return (kernel.M[:, 0].square() * STD**2 + kernel.L[:, 0, 0].square()).sqrt()


class Map(BaseDenoiser):
    """The exact consistency function of Gaussian data: every state stays at its quantile. `tilt` makes it wrong."""

    def __init__(self, sde, tilt=0.0):
        super().__init__()
        self.sde, self.sigma_data, self.tilt = sde, torch.tensor(STD), nn.Parameter(tensor(tilt))

    def predict(self, u, t, condition=None):
        return u[:, 0] * (STD / spread(self.sde, t) * (1 + self.tilt))[:, None, None].to(u), None


class Table(BaseDenoiser):
    """A number for each of the times (N,), falling: D = it times u."""

    def __init__(self, sde, times):
        super().__init__()
        self.sde, self.sigma_data, self.times = sde, torch.tensor(STD), times
        self.values = torch.zeros(len(times), dtype=torch.float64)

    def predict(self, u, t, condition=None):
        return u[:, 0] * self.values[(self.times - t[:, None]).abs().argmin(1)][:, None, None], None


def drawn(objective, sde, examples, length=64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = GAUSSIAN.sample((examples, 1, length), g)
    return x, replace(objective.draw(sde, x, g), eps=torch.randn(examples, 1, 1, length, generator=g).double())


def made(cls, sde, **options):
    """An objective whose teacher, if it has one, is the exact denoiser."""
    objective = cls(**({} if cls is ConsistencyTuning else {"teacher": "exact"}), **options)
    if objective.teacher is not None:
        objective.teacher = Teacher.of(Oracle(sde, GAUSSIAN))
    return objective


def closed(objective, share):
    """The objective with a gap 1 - σ_r / σ_t of `share`."""
    objective.closer, objective.wider, objective.stages = 1 / share, 0.0, 1
    return objective


# -------------------------------------------------------------------------------------- the walk


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("second", [False, True])
def test_a_walk_is_the_sampler_s_and_one_step_of_its_implied_x_ends_there(name, second):
    sde = SCALAR[name]
    times = KarrasGrid()(sde, 9)
    u = sde.kernel(times[:1]).sample(MIXTURE.sample((3, 1, 20)), torch.randn(3, 1, 1, 20, dtype=torch.float64))
    oracle = Oracle(sde, MIXTURE)
    flow = Flow(sde, u, times[0].expand(3))
    flow.walk(oracle, times[1:, None].expand(-1, 3), second)
    a = sde.kernel(times[-1:])
    x = (DPMSolver2M if second else DDIM)(9, TimesGrid(times.tolist()))(oracle, u)
    close(oracle(flow.state, times[-1].expand(3)), x, 1e-8, 1e-9)
    once = Flow(sde, u, times[0].expand(3))
    once.step(flow.implied, times[-1].expand(3))
    close(once.state, flow.state, 1e-9, 1e-10)
    # To the sound itself: D is what is left.
    flow.step(x, torch.zeros(3, dtype=torch.float64))
    close(flow.state[:, 0], x)
    close(flow.implied, x, 1e-9, 1e-12)
    assert a.snr > 0


# -------------------------------------------------------------------------------------- guidance as an input


class Classes(BaseDenoiser):
    """Gaussian classes of two means; the data together where none is told."""

    def __init__(self, sde):
        super().__init__()
        self.sde, self.sigma_data = sde, torch.tensor(0.5)
        self.net = nn.Identity()
        self.net.classes, self.net.guidance, self.net.context, self.weak = 2, False, "none", None

    def predict(self, u, t, condition=None):
        laws = [GAUSSIAN if c < 0 else Mixture((1.0,), (c + 1.0,), (STD,)) for c in condition.label.tolist()]
        rows = zip(laws, u.split(1), t.split(1), strict=True)
        return torch.cat([law.denoise(self.sde, one, at) for law, one, at in rows]), None


def test_a_range_of_weights_is_drawn_evenly_in_log_and_each_row_has_the_target_of_its_own():
    sde = SCALAR["EDM"]
    x, draw = drawn(ProgressiveDistillation("exact"), sde, 4, 16)
    label = Condition(label=torch.tensor([0, 1, 0, -1]))

    def objective(guidance):
        made = ProgressiveDistillation("exact", guidance=guidance)
        made.teacher.denoiser = Classes(sde)
        made.teacher.guidance = Guidance(made.teacher.weight)
        return made

    ranged = objective((1.5, 6.0))
    told = ranged.teacher.told(draw, label)
    u = sde.kernel(draw.t).sample(x, draw.eps)
    target = ranged.target(sde, u, draw.t, told)
    for i, weight in enumerate(told.guidance.double().tolist()):
        assert 1.5 < weight < 6
        alone = objective(weight).target(sde, u, draw.t, label)
        close(target[i], alone[i], 1e-5, 1e-6)
    assert not torch.allclose(target, objective(1.0).target(sde, u, draw.t, label), atol=1e-3)
    many = NoiseDraw(torch.zeros(4000), torch.randn(4000, 1, 1, 50, generator=torch.Generator().manual_seed(0)))
    share = (ranged.teacher.told(many, None).guidance.log() - math.log(1.5)) / math.log(4)
    assert (share.sort().values - torch.linspace(0, 1, 4000)).abs().max() < 0.03  # Kolmogorov and Smirnov's distance


@pytest.mark.parametrize("wrong", [(3.0, 1.0), (0.0, 2.0), (1.0, math.inf)])
def test_a_range_of_weights_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="a range is two weights, the lower first"):
        ProgressiveDistillation("exact", guidance=wrong)


# -------------------------------------------------------------------------------------- minimisers


@pytest.mark.parametrize("name", SCALAR)
@pytest.mark.parametrize("cls", [ConsistencyDistillation, ConsistencyTuning])
def test_a_consistency_loss_is_least_at_the_map_as_the_gap_closes(cls, name):
    sde = SCALAR[name]
    objective = closed(made(cls, sde, huber=1e-6), 1e-3)
    x, draw = drawn(objective, sde, 32, 2000)

    def at(tilt, target=0.0):
        denoiser = Map(sde, tilt)
        # The target's map apart from the one that learns.
        fixed = Map(sde, target)
        goal, gap = objective.target(fixed, x, sde.kernel(draw.t).sample(x, draw.eps), draw.t, None)
        D = denoiser(sde.kernel(draw.t).sample(x, draw.eps), draw.t)
        return float((D - goal).detach().square().mean()), float(gap[0])

    best, gap = at(0.0)
    assert gap == pytest.approx(1e-3)
    # A table of tilts: the least is at none, to 1e-3.
    tilts = [-3e-3, -1e-3, 0.0, 1e-3, 3e-3]
    losses = [at(tilt)[0] for tilt in tilts]
    a, b, _ = torch.linalg.lstsq(
        torch.stack([tensor(*tilts) ** 2, tensor(*tilts), torch.ones(5).double()], 1), tensor(*losses)
    ).solution.tolist()
    assert abs(-b / (2 * a)) < 1e-3
    assert best < at(0.05)[0]


@pytest.mark.parametrize(
    ("cls", "order", "reached"), [(ConsistencyDistillation, 2, 1e-3), (ConsistencyTuning, 1, 0.02)]
)
def test_a_table_that_makes_the_loss_least_is_the_map_as_the_gap_closes(cls, order, reached):
    sde, errors = EDM(0.001, 20.0), []
    for knots in (70, 140):
        times = sde.time(torch.logspace(math.log10(20), -3, knots, dtype=torch.float64) ** -2)
        objective = closed(made(cls, sde), 1 - float(times[1] / times[0]))
        # Two examples of one number, whose products of x and ε add up to their means over the law of the data.
        x, eps = tensor(STD, 0.0)[:, None, None], tensor(0.0, 1.0)[:, None, None, None]
        table = Table(sde, times)
        for k in reversed(range(knots)):  # each number by those below
            t = times[k].expand(2)
            u = sde.kernel(t).sample(x, eps)
            target, _ = objective.target(table, x, u, t, None)
            table.values[k] = (u[:, 0] * target).sum() / u.square().sum()
        errors.append(float((table.values * spread(sde, times) / STD - 1).abs().max()))
    assert errors[1] < reached
    # Known to a thousandth where both are taken together.
    assert abs(errors[1] - (errors[0] - errors[1]) / (2**order - 1)) < 1e-3
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.3)


def test_a_student_of_a_progressive_distillation_reaches_the_target_to_a_thousandth():
    sde = EDM(2e-3, 80.0)
    objective = made(ProgressiveDistillation, sde, steps=4, substeps=8)
    x, draw = drawn(objective, sde, 64, 200)
    u = sde.kernel(draw.t).sample(x, draw.eps)
    target = objective.target(sde, u, draw.t, None)
    # A number for each of the four times, by least squares: the least of the loss, whatever the weight.
    place = objective.time.place(sde, draw.t)
    values = torch.stack([(u[:, 0] * target)[place == k].sum() / u[:, 0][place == k].square().sum() for k in range(4)])

    class Learned(BaseDenoiser):
        def __init__(self):
            super().__init__()
            self.sde, self.sigma_data = sde, torch.tensor(STD)

        def predict(self, u, t, condition=None):
            return u[:, 0] * values[objective.time.place(sde, t)][:, None, None], None

    assert float(objective.at(Learned(), x, draw).max()) < 1e-20
    # ... and it sounds as the teacher does in eight times as many steps.
    prior = sde.prior((5, 1, 30)).double()
    theirs = DDIM(32, JumpGrid())(Oracle(sde, GAUSSIAN), prior)
    close(DDIM(4, JumpGrid())(Learned(), prior), theirs, 1e-9, 1e-12)


@pytest.mark.parametrize("grid", [JumpGrid(), JumpGrid(UniformGrid()), TimesGrid([1.0, 0.6, 0.3, 0.1])])
def test_rounds_of_halving_are_one_of_more_substeps(grid):
    # On a linear toy: eight steps of the teacher to four, these to two, and eight to two at once.
    sde = VP()
    oracle = Oracle(sde, GAUSSIAN)
    if not grid.flexible:
        grid.times = grid.times[::2]
    steps = 2

    class Student(BaseDenoiser):
        def __init__(self, objective):
            super().__init__()
            self.sde, self.sigma_data, self.objective = sde, torch.tensor(STD), objective

        def predict(self, u, t, condition=None):
            return self.objective.target(sde, u, t, condition), None

    once = made(ProgressiveDistillation, sde, steps=steps, substeps=4, grid=grid)
    nodes = once._nodes(sde)
    halfway = grid if grid.flexible else TimesGrid(nodes[:-1:2].tolist())
    first = Student(made(ProgressiveDistillation, sde, steps=2 * steps, substeps=2, grid=halfway))
    twice = made(ProgressiveDistillation, sde, steps=steps, substeps=2, grid=grid)
    if not grid.flexible:
        twice._nodes = lambda sde: torch.cat((nodes[:-1:2], nodes[-1:]))
        first.objective._nodes = lambda sde: nodes
    twice.teacher = Teacher.of(first)
    u = sde.prior((3, 1, 20)).double()
    t = nodes[4].expand(3)
    close(twice.target(sde, u, t, None), once.target(sde, u, t, None), 1e-9, 1e-12)
    fine = DDIM(8, TimesGrid(nodes[:-1].tolist()))(oracle, u)
    close(DDIM(2, TimesGrid(nodes[:-1:4].tolist()))(Student(once), u), fine, 1e-9, 1e-12)


def test_segments_end_where_the_flow_does():
    # With the exact map between the ends of two parts as the student, the target is the map; DDIM then samples the law.
    sde = EDM(2e-3, 80.0)
    objective = closed(made(ConsistencyDistillation, sde, segments=2), 0.05)

    class Parts(BaseDenoiser):
        def __init__(self):
            super().__init__()
            self.sde, self.sigma_data = sde, torch.tensor(STD)

        def predict(self, u, t, condition=None):
            s = objective.end(sde, t)
            to = torch.where(s == 0, STD, spread(sde, s.clamp_min(1e-9)))
            end = u * (to / spread(sde, t))[:, None, None, None]
            flow = Flow(sde, u, t)
            flow.step(torch.zeros_like(u[:, 0]), s)
            a = 1 - flow.sigma / sde.sigma(t)
            return ((end - flow.state) / a[:, None, None, None])[:, 0], None

    x, draw = drawn(objective, sde, 16, 100)
    draw = replace(draw, t=torch.linspace(0.005, 1, 16).double())
    assert set(objective.end(sde, draw.t).tolist()) == {0.0, float(JumpGrid()(sde, 2)[1])}
    u = sde.kernel(draw.t).sample(x, draw.eps)
    target, _ = objective.target(Parts(), x, u, draw.t, None)
    close(target, Parts()(u, draw.t), 0.0, 2e-3)
    prior = sde.prior((4, 1, 50)).double()
    close(DDIM(2, JumpGrid())(Parts(), prior), Map(sde)(prior, torch.ones(4).double()).detach(), 1e-6, 1e-9)


# -------------------------------------------------------------------------------------- the boundary


def test_the_boundary_condition_is_exact():
    sigma = tensor(0.0005, 0.002, 0.01, 80.0)
    sde = EDM(5e-4, 80.0)
    kernel = sde.kernel(sigma / 80)
    skip, out = Consistency(0.002)(kernel, tensor(0.5)[0])
    assert skip[:2, 0].tolist() == pytest.approx([1.0, 1.0], abs=1e-12)
    assert out[:2].tolist() == pytest.approx([0.0, 0.0], abs=1e-12)
    # Song et al. 2023, eq. 8 and appendix C
    d = sigma[2:] - 0.002
    close(skip[2:, 0], 0.25 / (d**2 + 0.25))
    close(out[2:], 0.5 * d / (d**2 + 0.25).sqrt())
    for a, b in zip(Consistency()(kernel, tensor(0.5)[0]), Karras()(kernel, tensor(0.5)[0]), strict=True):
        close(a, b)


def test_where_the_earlier_time_is_below_t_min_the_target_is_the_teacher_s_sound():
    sde = EDM(2e-3, 80.0)
    objective = closed(made(ConsistencyTuning, sde), 0.5)
    x = GAUSSIAN.sample((2, 1, 20))
    t = tensor(0.0025 / 80, 0.0025 / 80)
    u = sde.kernel(t).sample(x, torch.randn(2, 1, 1, 20).double())
    target, _ = objective.target(Map(sde, 5.0), x, u, t, None)
    close(target, x)


# -------------------------------------------------------------------------------------- the sampler


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("name", ["EDM", "VE", "VP", "MeanSigma"])
def test_consistency_sampling_of_the_exact_map_has_the_law_of_the_data(name, steps):
    sde = SCALAR[name]
    u = sde.kernel(tensor(sde.t_max)).sample(
        GAUSSIAN.sample((1, 1, 40000)), torch.randn(1, 1, 1, 40000, dtype=torch.float64)
    )
    sampler = ConsistencySampler(steps)
    x = sampler(Map(sde), u)
    assert sampler.nfe == steps
    assert float(x.std()) == pytest.approx(STD, rel=0.02)
    if steps == 1:
        close(x, Map(sde)(u, tensor(sde.t_max)).detach())


def test_a_consistency_function_of_langevin_dynamics_is_sampled_too():
    # Any that has the law of the data will do for the sampler: here one sound drawn anew, whatever the state.
    sde, seen = CLD(), []

    class Drawn(Oracle):
        def predict(self, u, t, condition=None):
            seen.append((u, t[:1]))
            return GAUSSIAN.sample(u[:, 0].shape), None

    ConsistencySampler(3)(Drawn(sde, GAUSSIAN), sde.prior((1, 1, 40000)).double())
    for u, t in seen[1:]:
        kernel = sde.kernel(t)
        law = kernel.L[0] @ kernel.L[0].mT + STD**2 * kernel.M[0][:, None] * kernel.M[0]
        torch.testing.assert_close(u[0, :, 0].cov(), law, rtol=0.05, atol=5e-3)


# -------------------------------------------------------------------------------------- flow matching


def test_the_velocity_of_rectified_flow_and_its_denoiser_agree():
    # Lipman et al. 2023, example II: with u = (1 - t) x + t ε, E[ε - x | u] = (u - D) / t, the flow's du/dt.
    sde = MeanSigma()
    u, t = torch.randn(3, 1, 1, 20, dtype=torch.float64), tensor(0.1, 0.5, 0.9)
    oracle = Oracle(sde, MIXTURE)
    D = oracle(u, t)
    velocity = oracle.eps(u, t)[:, 0] - D
    close(velocity, (u[:, 0] - D) / t[:, None, None], 1e-9)
    F, g = sde.drift(t)[:, 0], sde.diffusion(t)
    flow = F[..., None] * u[:, 0] - 0.5 * g.square()[..., None] * oracle.score(u, t)[:, 0]
    close(velocity, flow, 1e-6, 1e-6)


# -------------------------------------------------------------------------------------- teachers


def test_what_cannot_be_is_refused():
    for cls in (ProgressiveDistillation, ConsistencyDistillation, ConsistencyTuning):
        objective = cls(teacher="drums")
        with pytest.raises(ValueError, match=f"{cls.__name__} needs a process of one block, and CLD has 2"):
            objective.begin(Denoiser(nn.Identity(), CLD()), ConsistencySampler())
    with pytest.raises(ValueError, match="substeps"):
        ProgressiveDistillation("drums", substeps=1)
    with pytest.raises(ValueError, match="the student learns 4 steps"):
        ProgressiveDistillation("drums").begin(Denoiser(nn.Identity(), EDM()), DDIM(8, JumpGrid()))
    with pytest.raises(ValueError, match="closer = 1"):
        ConsistencyTuning(closer=1.0)


@pytest.fixture(scope="module")
def drums():
    return checkpoint.load("drums").module


def test_a_student_begins_as_its_teacher_which_is_no_part_of_it(drums):
    student = Denoiser(copy.deepcopy(drums.denoiser.net), drums.denoiser.sde, Karras())
    for p in student.net.parameters():
        nn.init.zeros_(p)
    objective = ConsistencyDistillation(teacher="drums")
    assert list(objective.parameters()) == []
    objective.begin(student, ConsistencySampler())
    assert list(objective.state_dict()) == ["step"]
    assert copy.deepcopy(objective).teacher is objective.teacher
    assert not any(p.requires_grad for p in objective.teacher.model.parameters())
    for mine, theirs in zip(student.net.parameters(), drums.denoiser.net.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert float(student.sigma_data) == float(drums.denoiser.sigma_data)


def test_a_teacher_is_guided_where_its_guidance_acts(drums):
    teacher = Teacher("drums", 2.5).load()
    u, label = torch.randn(4, 1, 1, 2000), torch.tensor([0, 1, -1, 2])
    t = tensor(0.05, 0.001, 0.05, 0.5)  # σ of 5, 0.1, 5 and 50: the guidance acts from 1 to 20
    guided = Guidance(2.5, 1.0, 20.0)(drums.denoiser)(u, t, Condition(label=label))
    plain = drums.denoiser(u, t, Condition(label=label))
    got = teacher(u, t, Condition(label=label))
    torch.testing.assert_close(got, guided, rtol=1e-4, atol=1e-4)
    assert float((got - plain)[0].abs().max()) > 1e-3
    torch.testing.assert_close(got[1:], plain[1:], rtol=1e-4, atol=1e-4)


def test_every_objective_of_a_teacher_is_tested_here():
    assert {c.__name__ for c in concrete(Objective) if "distillation" in c.__module__} == {
        "ConsistencyDistillation",
        "ConsistencyTuning",
        "ContinuousConsistency",
        "ProgressiveDistillation",
    }


def test_the_gap_closes_with_the_steps():
    objective = ConsistencyTuning(every=10, stages=3, wider=0.0)
    gaps = []
    for step in (0, 9, 10, 25, 1000):
        objective.begin_step(step)
        gaps.append(float(objective.gap(tensor(1.0), tensor(0.5))))
    assert gaps == [0.5, 0.5, 0.25, 0.125, 0.125]
    # Geng et al. 2024, eq. 10 with k = 8, b = 1
    objective = ConsistencyTuning(every=10, wider=8.0)
    objective.begin_step(60)
    close(objective.gap(tensor(0.7), tensor(0.5)), tensor((1 + 8 / (1 + math.exp(0.7))) / 2**7))


def test_validation_does_not_follow_the_gap():
    sde = SCALAR["EDM"]
    objective = made(ConsistencyDistillation, sde)
    x, draw = drawn(objective, sde, 8, 20)
    values = []
    for step in (0, 5000):
        objective.begin_step(step)
        values.append(objective.validate(Map(sde), x, draw))
    close(values[0], values[1])
    assert float(values[0].max()) < 0.05
    assert isinstance(draw, NoiseDraw)
    assert set(PARAMETRIZATIONS) >= {"Consistency"}
    assert PROCESSES


# -------------------------------------------------------------------------------------- continuous time


def continuous(sde, flow="teacher", **options):
    objective = ContinuousConsistency("exact", flow, **options)
    objective.teacher = Teacher.of(Oracle(sde, GAUSSIAN))
    return objective


@pytest.mark.parametrize("name", SCALAR)
def test_the_derivative_along_the_flow_is_that_of_a_walk_and_none_for_the_map(name):
    sde = SCALAR[name]
    x, draw = drawn(continuous(sde), sde, 8, 40)
    u = sde.kernel(draw.t).sample(x, draw.eps)
    goal = Oracle(sde, GAUSSIAN)(u, draw.t)
    _, still = along_the_flow(Map(sde), u, draw.t, goal)
    assert float(still.detach().abs().max()) < 1e-6
    # Of another denoiser, against two states of the flow close by.
    other = Oracle(sde, MIXTURE)
    _, moved = along_the_flow(other, u, draw.t, goal)
    log, h = -0.5 * sde.kernel(draw.t).snr.log(), 1e-4
    ends = []
    for step in (h, -h):
        s = sde.time((-2 * (log + step)).exp())
        state = u * (spread(sde, s) / spread(sde, draw.t))[:, None, None, None]
        ends.append(other(state, s))
    inside = draw.t < sde.t_max * 0.999  # beyond it no time is known
    close(moved[inside], ((ends[0] - ends[1]) / (2 * h))[inside], 1e-4, 1e-6)


class Angles(BaseDenoiser):
    """A D that meets the boundary condition, of a polynomial in the angle whose tangent is σ / σ_d."""

    def __init__(self, sde, weights):
        super().__init__()
        self.sde, self.sigma_data, self.weights = sde, torch.tensor(STD), nn.Parameter(weights)

    def predict(self, u, t, condition=None):
        kernel = self.sde.kernel(t)
        angle = (1 / (kernel.snr.sqrt() * STD)).atan()
        a = (self.weights * angle[:, None] ** torch.arange(len(self.weights))).sum(1)
        gain = (angle.cos().square() + angle.cos() * angle.sin() * a) / kernel.M[:, 0]
        return u[:, 0] * gain[:, None, None], None


@pytest.mark.parametrize("flow", ["teacher", "sound"])
@pytest.mark.parametrize("name", ["EDM", "VP"])
def test_the_fixed_point_of_continuous_consistency_is_the_map_to_a_thousandth(name, flow):
    sde = SCALAR[name]
    objective = continuous(sde, flow, normalise=1e6, warmup=0)  # so wide that the tangent keeps its length
    t = sde.time(torch.logspace(1, -3, 40, dtype=torch.float64) ** -2).repeat_interleave(4)
    # Four examples of one number for each time, whose products add up to those of the law of the data.
    x = STD * tensor(1, 1, -1, -1).repeat(40)[:, None, None]
    draw = NoiseDraw(t, tensor(1, -1, 1, -1).repeat(40)[:, None, None, None])

    def gradient(weights):
        student = Angles(sde, weights)
        objective.at(student, x, draw).sum().backward()
        return student.weights.grad

    size = 7
    start = gradient(torch.zeros(size).double())
    slope = torch.stack([gradient(row) - start for row in torch.eye(size).double()], 1)
    student = Angles(sde, torch.linalg.lstsq(slope, -start).solution)
    u = sde.kernel(t).sample(x, draw.eps)
    close(student(u, t).detach(), Map(sde)(u, t).detach(), 1e-3, 1e-4)


def test_continuous_consistency_begins_as_the_teacher_and_bounds_its_tangent():
    sde = SCALAR["EDM"]
    objective = continuous(sde, normalise=1e-9, warmup=10)
    x, draw = drawn(objective, sde, 16, 400)
    assert float(objective.at(Map(sde), x, draw).detach().max()) > 1e-3  # the teacher's D is no end of the flow
    u, student = sde.kernel(draw.t).sample(x, draw.eps), Map(sde, 0.3)

    def moved():
        return (objective.target(student, x, u, draw.t, None) - student(u, draw.t)).detach().flatten(1)

    wanted = (objective.teacher(u, draw.t, None) - student(u, draw.t)).detach().flatten(1)
    assert torch.nn.functional.cosine_similarity(moved(), wanted).min() > 0.999999
    # Along the flow this student stands still already; what is left of the teacher's D fades.
    objective.normalise = 1e6
    whole = moved()
    for step, share in ((5, 0.5), (10, 0.0)):
        objective.begin_step(step)
        close(moved(), share * whole, 1e-5, 1e-12)
    objective.begin_step(0)
    objective.normalise = 1e-9
    # A tangent of any length moves D by no more than the noise level lets it.
    variance = 1 / sde.kernel(draw.t).snr
    close(moved().square().mean(1).sqrt(), (variance / (variance + STD**2)).sqrt() * STD, 1e-4)


def test_following_the_sound_teaches_the_flow_on_average():
    # At one state, the mean over the sounds that it may come from is the tangent of the exact flow.
    sde, g = SCALAR["EDM"], torch.Generator().manual_seed(0)
    count, t = 200_000, tensor(0.3 / 80)
    u = tensor(0.4)[:, None, None, None]
    mean, var = STD**2 / (STD**2 + 0.09) * 0.4, STD**2 * 0.09 / (STD**2 + 0.09)
    sounds = mean + var**0.5 * torch.randn(1, 1, count, generator=g, dtype=torch.float64)
    other = Oracle(sde, MIXTURE)
    _, flow = along_the_flow(other, u, t, Oracle(sde, GAUSSIAN)(u, t))
    _, each = along_the_flow(other, u.expand(1, 1, 1, count).contiguous(), t, sounds)
    assert float(each.mean()) == pytest.approx(float(flow), rel=0.01)
