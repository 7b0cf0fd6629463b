"""The classifier of noised sounds: its network, its loss, its training, and how it is told from a model of sounds."""

import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from diffwave_sde import checkpoint, generate
from diffwave_sde.classifier import Classifier
from diffwave_sde.classifier_module import ClassifierModule
from diffwave_sde.cli import kinds, main
from diffwave_sde.data.clips import Batch
from diffwave_sde.denoiser import Condition
from diffwave_sde.guidance import Guidance
from diffwave_sde.loss import CrossEntropy, LogNormalSigma
from diffwave_sde.networks import MDCT, Encoder
from diffwave_sde.sde import CLD, EDM, VP


def small(outputs: int = 3, **options) -> Encoder:
    return Encoder(outputs, channels=[8, 8], factors=[5], embedding=8, heads=2, **options)


def shaken(net: Encoder) -> Encoder:
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize("length", [1, 59, 400])
@pytest.mark.parametrize("front", [None, MDCT(20)])
def test_it_takes_sounds_of_any_length_and_gives_log_probabilities(front, length):
    classifier = Classifier(shaken(small(front=front)))
    log_prob = classifier.log_prob(torch.randn(2, 1, 1, length), torch.tensor([0.2, 0.7]))
    assert log_prob.shape == (2, 3)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(2))


def test_what_fills_up_the_stride_is_not_pooled():
    net = shaken(small(bottleneck="none"))
    taken = []
    net.last.register_forward_hook(lambda module, inputs, output: taken.append(output.shape[-1]))
    net.worth.register_forward_hook(lambda module, inputs, output: taken.append(output.shape[-1]))
    for length, frames in ((20, 4), (21, 5)):
        net.pooled(torch.randn(1, 1, length), torch.zeros(1))
        assert taken.pop() == frames
    # Nothing but noise, of nothing but silence: the same features however long it lasts, but for the ends.
    silent = shaken(small(bottleneck="none", position=0, norm="frame", compress=False))
    a, b = (silent.pooled(torch.zeros(1, 1, length), torch.zeros(1)) for length in (2001, 4003))
    torch.testing.assert_close(a, b, rtol=0.05, atol=0.02)


def test_one_classifier_serves_every_process():
    net, x = shaken(small()).double(), torch.randn(2, 1, 60).double()
    found = []
    for sde in (EDM(), VP(), CLD()):
        t = sde.time(torch.tensor([4.0, 0.5], dtype=torch.float64))
        u = sde.kernel(t).sample(x, torch.zeros(2, sde.blocks, 1, 60).double())
        found.append(Classifier(net, sde, 0.3).log_prob(u, t))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_cross_entropy_smoothed_as_asked():
    log_prob = torch.randn(5, 3).log_softmax(1)
    label = torch.tensor([0, 2, 1, 1, 0])
    draw = CrossEntropy().draw(EDM(), torch.zeros(5, 1, 8), torch.Generator().manual_seed(0))
    for smoothing in (0.0, 0.2):
        got = CrossEntropy(smoothing=smoothing).of(log_prob, draw, Condition(label=label))
        expected = functional.cross_entropy(log_prob, label, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(got, expected)
    with pytest.raises(ValueError, match="smoothing = 1"):
        CrossEntropy(smoothing=1.0)


def test_trained_on_known_sounds_it_comes_to_the_exact_law_at_every_noise_level():
    torch.manual_seed(0)
    means, std, length = torch.tensor([-0.4, 0.1, 0.5]), 0.3, 8
    loss, sde = CrossEntropy(LogNormalSigma(0.0, 1.0)), VP()
    classifier = Classifier(Encoder(3, channels=[24, 24], factors=[2], embedding=24, heads=2), sde, 0.5)
    optimizer = torch.optim.AdamW(classifier.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, 200)

    def sounds(count, g=None):
        label = torch.randint(3, (count,), generator=g)
        return means[label][:, None, None] + std * torch.randn(count, 1, length, generator=g), label

    for _ in range(200):
        x, label = sounds(128)
        optimizer.zero_grad()
        loss.at(classifier, x, loss.draw(sde, x), Condition(label=label)).mean().backward()
        optimizer.step()
        schedule.step()
    g = torch.Generator().manual_seed(1)
    x, label = sounds(2000, g)
    for sigma in (0.2, 1.0, 3.0):
        t = sde.time(torch.full((len(x),), sigma**-2, dtype=torch.float64))
        u = sde.kernel(t).sample(x, torch.randn(len(x), 1, 1, length, generator=g))
        y = u / sde.kernel(t).M[:, :, None, None]
        square = (y.flatten(1)[..., None] - means).square().sum(1)
        exact = (-0.5 * square / (std**2 + sigma**2)).log_softmax(1)
        with torch.no_grad():
            found = classifier.log_prob(u, t)
        # Kullback and Leibler's divergence, in nats, of what it says from the truth, and of knowing nothing from it.
        divergence = (exact.exp() * (exact - found)).sum(1).mean()
        nothing = (exact.exp() * (exact + math.log(3))).sum(1).mean()
        assert float(divergence) < 0.2 * float(nothing), sigma


def test_two_ranks_draw_together_what_one_process_draws_alone_and_no_class_is_hidden():
    module = ClassifierModule(small())
    rows = torch.arange(8)
    whole = Batch(torch.randn(8, 1, 50), rows % 3, rows)
    _, condition, draw = module.replay(whole, counter=7)
    assert torch.equal(condition.label, whole.label)
    for rank in range(2):
        _, own, part = module.replay(
            Batch(*(field[rank::2] for field in whole if field is not None)), counter=7, rank=rank, world=2
        )
        assert torch.equal(part.t, draw.t[rank::2])
        assert torch.equal(part.eps, draw.eps[rank::2])
        assert torch.equal(own.label, condition.label[rank::2])


def test_one_class_is_nothing_to_tell():
    with pytest.raises(ValueError, match="1 class has nothing to tell"):
        Classifier(small(1))


# ------------------------------------------------------------------------------------------------- the command line

DATA = ["--data.dataset=drums", "--data.count=80", "--data.length=2000", "--data.batch_size=4", "--data.workers=0"]
TRAINER = [
    "--trainer.precision=32-true", "--trainer.accelerator=cpu", "--trainer.logger=false",
    "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1",
]  # fmt: skip
NETWORK = ["--model.net.channels=[8,8,8]", "--model.net.embedding=8", "--model.net.heads=2"]
PLAIN = "--trainer.callbacks=[{class_path: EMA}, {class_path: LastCheckpoint}]"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of a classifier, the newest, and one of a model that knows no classes."""
    home = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        shared = [*DATA, *TRAINER, *NETWORK, "--data.root=data", "--trainer.max_steps=2"]
        main(["fit", *shared, "--model.net.classes=0", "--model.sde=CLD", PLAIN, "--name=sounds"])
        main(["fit", f"--config={kinds.CONFIGS / 'experiment' / 'classifier.yaml'}", *shared])
    return home


@pytest.fixture
def here(runs, tmp_path, monkeypatch):
    """A folder with these runs in it."""
    (tmp_path / "runs").mkdir()
    for run in (runs / "runs").iterdir():
        (tmp_path / "runs" / run.name).symlink_to(run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_training_leaves_a_checkpoint_that_says_what_it_is(here):
    assert {run.name for run in (here / "runs").iterdir()} == {"sounds", "drums-classifier"}
    last = here / "runs" / "drums-classifier" / "checkpoints" / "last.ckpt"
    assert checkpoint.kind_of(last) == "classifier"
    assert checkpoint.kind_of(here / "runs" / "sounds" / "checkpoints" / "last.ckpt") == "diffusion"
    assert checkpoint.newest(here / "runs") == last
    assert checkpoint.newest(here / "runs", kind="diffusion").parts[-3] == "sounds"
    classifier = checkpoint.load_classifier("runs/drums-classifier")
    assert (classifier.labels, classifier.classes) == (("cymbal", "kick", "snare"), 3)
    assert not classifier.training


@pytest.mark.parametrize(
    "said",
    [
        ["--ckpt_path=last", "--name=drums-classifier"],
        ["--kind=classifier", "--data.dataset=drums", "--ckpt_path=last"],
        ["--ckpt_path=runs/drums-classifier"],
    ],
)
def test_a_run_goes_on_as_the_module_that_it_was(said, here, runs, capfd):
    run = here / "runs" / "drums-classifier"
    run.unlink()
    shutil.copytree(runs / "runs" / run.name, run)
    main(["fit", *said, "--trainer.max_steps=3"])
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == state["diffwave_sde"]["batches"] == 3
    assert state["diffwave_sde"]["kind"] == "classifier"
    assert int(state["averaging_state"]["n_averaged"]) == 3


def test_validation_tells_loss_and_accuracy_by_noise_level(here, capfd):
    main(["validate", "--ckpt_path=runs/drums-classifier"])
    out = capfd.readouterr().out
    assert {"val/loss", "val/accuracy"} <= set(out.split())
    assert "val/accuracy/sigma=1e-1" in out


def test_a_model_that_knows_no_classes_makes_sounds_of_a_class_and_of_mixes(here, capfd):
    guide = ["--ckpt=runs/sounds", "--classifier=runs/drums-classifier", "--sampler=DDIM", "--sampler.steps=3"]
    for out, more in {
        "default": [],
        "one": ["--guidance.classifier=1"],
        "none": ["--guidance.classifier=0"],
        "far": ["--guidance.classifier=500"],
    }.items():
        main(["sample", *guide, *more, f"--out={out}", "--n=2", "--label=kick,kick:0.5+snare:0.5"])
    told = capfd.readouterr().out
    assert "guided, classifier 1)" in told
    assert "guided, classifier 500)" in told

    def sound(folder):
        (file,) = (here / folder).glob("000-kick*.wav")
        return file.read_bytes()

    main(["sample", "--ckpt=runs/sounds", "--sampler=DDIM", "--sampler.steps=3", "--out=plain", "--n=2"])
    assert sound("default") == sound("one")
    assert sound("none") == (here / "plain" / "000-sound.wav").read_bytes()
    assert sound("far") != sound("one")
    assert len(list((here / "far").glob("*.wav"))) == 2


def test_in_python_labels_are_the_classifiers_own_where_the_model_has_none(here):
    model = checkpoint.load("runs/sounds", classifier="runs/drums-classifier")
    labels = generate.ask(model, 4)
    assert list(labels.names) == ["cymbal", "kick", "snare", "cymbal"]
    model.module.guidance = Guidance(classifier=2.0)
    assert str(model.module.guided()) == "classifier 2"
    assert model.module.sample(2000, labels.ids, model.module.generators(range(4))).isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sample", "--ckpt=runs/drums-classifier"], "is of a classifier, which makes no sounds"),
        (["export", "--ckpt=runs/drums-classifier", "--out=x"], "is of a classifier, which makes no sounds"),
        (["sample", "--ckpt=runs/sounds", "--classifier=runs/sounds"], "train one with `make classifier`"),
        (["sample", "--ckpt=runs/sounds", "--classifier=nowhere"], "no checkpoint at nowhere"),
        (["sample", "--ckpt=runs/sounds", "--guidance.classifier=2"], "there is no classifier; add --classifier"),
        (
            ["sample", "--ckpt=runs/sounds", "--classifier=runs/drums-classifier", "--label=bell"],
            "--label bell: choose of cymbal, kick, snare",
        ),
        (["fit", "--ckpt_path=runs/drums-classifier", "--kind=diffusion"], "leave --kind out"),
        (["fit", "--kind=other"], "--kind: other is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_of_the_other_kind_is_refused_in_one_line(arguments, words, here, capfd):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert said.startswith("diffwave-sde: ")
    assert words in said


def test_classes_are_matched_by_name_and_one_that_the_classifier_does_not_know_is_named():
    classifier = Classifier(small(2))
    classifier.labels = ("snare", "kick")
    classifier.follow(["hat", "kick", "snare"])
    assert classifier.rows == [{}, {1: 1.0}, {0: 1.0}]
    assert classifier.shares({1: 0.7, 2: 0.3}) == {1: 0.7, 0: 0.3}
    module = SimpleNamespace(classifier=classifier, denoiser=SimpleNamespace(net=SimpleNamespace(classes=3)))
    model = SimpleNamespace(module=module, labels=("hat", "kick", "snare"), path="x")
    assert list(generate.ask(model, 2).names) == ["kick", "snare"]
    for text in ("hat", "kick,hat:0.5+snare:0.5"):
        with pytest.raises(ValueError, match="hat: the classifier knows snare, kick alone"):
            generate.ask(model, 2, text)
