"""Published networks with weights of one's own: front ends as published, padding as documented, odd files refused."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffwave_sde import audio, compatibility, metrics
from diffwave_sde.metrics import CLAP, VGGish, aligned
from diffwave_sde.metrics.pretrained import Network, log_mel


def noise(samples, count=1, seed=0):
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(seed))


def hit(samples, count=1):
    """Decaying noise that begins at once and ends within 72 dB of its peak."""
    return noise(samples, count) * torch.exp(-2 * torch.arange(samples) / samples)


# ------------------------------------------------------------------------------------------------- VGGish


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights as they come; in half precision, and removed again, since it is large."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vggish.pth"
    network = Network()
    for layer in network.modules():  # so that what comes in comes out: with the usual ones the biases alone do
        if hasattr(layer, "weight"):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    state = {name: value.half() for name, value in network.state_dict().items()}
    pca = {"pproc.pca_eigen_vectors": torch.eye(128), "pproc.pca_means": torch.zeros(128, 1)}
    torch.save(state | pca, path)
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def vggish(weights):
    return VGGish(str(weights))


def windows(sound, count):
    """What the network is to see of a sound (T,): `count` windows of 96 frames."""
    x = audio.resample(aligned(sound[None], None)[0], audio.RATE, 16_000)
    x = torch.nn.functional.pad(x, (0, max(0, 15_600 - len(x))))
    return torch.stack([log_mel(x[None])[0, 96 * k : 96 * (k + 1)] for k in range(count)])


def test_the_front_end_is_the_published_one():
    x = 0.1 * noise(4000)[0].double().numpy()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    mel = 1127 * np.log(1 + np.arange(257) * 16_000 / 512 / 700)
    edges = np.linspace(1127 * np.log(1 + 125 / 700), 1127 * np.log(1 + 7500 / 700), 66)
    expected = []
    for start in range(0, 4000 - 400 + 1, 160):
        magnitude = np.abs(np.fft.rfft(np.pad(x[start : start + 400] * hann, (0, 112))))
        bands = [np.interp(mel, edges[k : k + 3], [0, 1, 0]) @ magnitude for k in range(64)]
        expected.append(np.log(np.array(bands) + 0.01))
    found = log_mel(torch.from_numpy(x)[None])[0].numpy()
    assert found.shape == (23, 64)
    np.testing.assert_allclose(found, expected, atol=1e-6)  # torch's Hann window is in single precision


def test_the_layout_is_the_published_one():
    with torch.device("meta"):
        state = Network().state_dict()
    assert sum(v.numel() for v in state.values()) == 72_141_184  # Hershey et al. 2017, as released
    layers = [f"features.{n}" for n in (0, 3, 6, 8, 11, 13)] + [f"embeddings.{n}" for n in (0, 2, 4)]
    assert sorted(state) == sorted(f"{layer}.{what}" for layer in layers for what in ("weight", "bias"))


def test_channels_are_last_where_the_linear_layers_begin():
    with torch.device("meta"):
        network = Network()
    state = {name: torch.zeros(v.shape) for name, v in network.state_dict().items()}
    state["features.13.bias"] = torch.arange(512.0)  # so each of the 6 by 4 places holds its channel's number
    picked = torch.arange(128) * 90
    state["embeddings.0.weight"][torch.arange(128), picked] = 1
    for layer in ("embeddings.2", "embeddings.4"):
        state[f"{layer}.weight"][torch.arange(128), torch.arange(128)] = 1
    network.load_state_dict(state, assign=True)
    assert network(torch.zeros(1, 96, 64))[0].tolist() == (picked % 512).tolist()


def test_a_file_of_weights_gives_128_numbers(vggish, weights, tmp_path):
    out = vggish(hit(20_000, count=3))
    assert out.shape == (3, 128)
    assert out.isfinite().all()
    assert (out[0] - out[1]).std() > 0.01 * out[0].std()
    path = tmp_path / "vggish.safetensors"
    save_file(torch.load(weights, weights_only=True), path)
    other = VGGish(str(path))
    path.unlink()
    assert torch.equal(other(hit(20_000, count=3)), out)


def test_a_short_sound_is_followed_by_silence(vggish):
    sound = hit(13_000)
    expected = vggish.network(windows(sound[0], 1))
    torch.testing.assert_close(vggish(sound), expected, rtol=1e-4, atol=1e-3)
    longer = torch.nn.functional.pad(sound, (0, 200_000))
    torch.testing.assert_close(vggish(longer), vggish(sound), rtol=1e-4, atol=1e-4)


def test_a_long_sound_is_the_mean_of_its_whole_windows(vggish):
    sound = hit(3 * audio.RATE)  # 3 s: three windows, and 0.1 s that are left
    parts = vggish.network(windows(sound[0], 3))
    torch.testing.assert_close(vggish(sound)[0], parts.mean(0), rtol=1e-4, atol=1e-3)
    # Beside a short one in a batch too.
    both = torch.cat((torch.nn.functional.pad(hit(5000), (0, sound.shape[1] - 5000)), sound))
    torch.testing.assert_close(vggish(both), torch.cat((vggish(hit(5000)), vggish(sound))), rtol=1e-4, atol=1e-3)


def test_what_lies_above_7_5_khz_is_not_heard():
    t = torch.arange(20_000, dtype=torch.float64) / audio.RATE

    def loudest(hertz):
        tone = torch.hann_window(20_000) * torch.sin(2 * math.pi * hertz * t)
        return float(log_mel(audio.resample(tone, audio.RATE, 16_000)[None]).max())

    assert loudest(5000) > 3
    assert loudest(9000) == pytest.approx(math.log(0.01), abs=0.05)  # that of silence


def missing(path):
    pass


def text(path):
    path.write_text("no weights")


def empty(path):
    path.write_bytes(b"")


def folder(path):
    path.mkdir()


def tensor(path):
    torch.save(torch.zeros(3), path)


def another_layout(path):
    torch.save({"features.0.weight": torch.zeros(3)}, path)


def pca_alone(path):
    torch.save({"pproc.pca_means": torch.zeros(128, 1)}, path)


def no_tensors(path):
    torch.save(dict.fromkeys(("features.0.weight", "embeddings.0.weight"), 3), path)


def code(path):
    torch.save({"features.0.weight": np.random.default_rng}, path)  # is not run


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "write",
    [missing, text, empty, folder, tensor, another_layout, pca_alone, no_tensors, code],
    ids=lambda f: f.__name__,
)
def test_what_are_no_weights_is_refused_in_one_line(write, ending, tmp_path):
    path = tmp_path / f"own.{ending}"
    write(path)
    with pytest.raises(ValueError, match=rf"own\.{ending}: not the weights of VGGish") as error:
        VGGish(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 100


# --------------------------------------------------------------------------------------------------- CLAP


@pytest.fixture(scope="module", params=["plain", "fused"])
def clap_folder(request, tmp_path_factory):
    """A tiny model with random weights."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    fused = request.param == "fused"
    sound = {
        "spec_size": 256, "window_size": 8, "hidden_size": 64, "patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2], "aff_block_r": 2, "enable_fusion": fused,
    }  # fmt: skip
    words = {
        "vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
    }  # fmt: skip
    config = transformers.ClapConfig(audio_config=sound, text_config=words, projection_dim=16)
    out = tmp_path_factory.mktemp("clap")
    transformers.ClapModel(config).save_pretrained(out)
    extractor = transformers.ClapFeatureExtractor(truncation="fusion" if fused else "rand_trunc")
    extractor.save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def clap(clap_folder):
    return CLAP(str(clap_folder))


def test_clap_gives_vectors_of_length_one_the_same_every_time(clap):
    sounds = hit(20_000, count=4)
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    out = clap(sounds)
    assert out.shape == (4, 16)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(4))
    assert np.random.rand() == expected  # noqa: NPY002
    # The extractor of a fused model would call one of each batch long, by chance.
    torch.testing.assert_close(clap(sounds, batch=1), out, rtol=0, atol=1e-5)
    assert clap(torch.zeros(1, 100)).isfinite().all()


def by_hand(folder, x):
    """What the folder's model makes of 10 s at 48 kHz."""
    from transformers import ClapFeatureExtractor, ClapModel

    inputs = ClapFeatureExtractor.from_pretrained(folder)(x.numpy(), sampling_rate=48_000, return_tensors="pt")
    with torch.no_grad():
        out = ClapModel.from_pretrained(folder).get_audio_features(
            inputs["input_features"], is_longer=torch.zeros(1, 1, dtype=torch.bool)
        )
    return getattr(out, "pooler_output", out)


def test_clap_hears_a_sound_of_half_seconds_at_48_khz_repeated(clap, clap_folder):
    sound = hit(13_000)
    x = audio.resample(aligned(sound, None)[0], 44_100, 48_000)
    x = torch.nn.functional.pad(x, (0, 24_000 - len(x))).repeat(20)
    torch.testing.assert_close(clap(sound), by_hand(clap_folder, x), rtol=0, atol=1e-4)
    longer = torch.nn.functional.pad(sound, (0, 60_000))
    torch.testing.assert_close(clap(longer), clap(sound), rtol=0, atol=1e-6)


def test_clap_takes_the_mean_over_the_whole_windows_of_a_long_sound(clap, clap_folder):
    sound = hit(21 * audio.RATE)
    x = audio.resample(aligned(sound, None)[0], 44_100, 48_000)
    first, second = (by_hand(clap_folder, part) for part in x[:960_000].split(480_000))
    assert (first - second).abs().max() > 1e-3
    torch.testing.assert_close(clap(sound), (first + second) / 2, rtol=0, atol=1e-4)


def without_audio(path):
    state = load_file(path / "model.safetensors")
    kept = {k: v for k, v in state.items() if not k.startswith("audio_projection")}
    save_file(kept, path / "model.safetensors", {"format": "pt"})


def without_weights(path):
    (path / "model.safetensors").unlink()


def without_features(path):
    (path / "preprocessor_config.json").unlink()


def without_config(path):
    (path / "config.json").unlink()


def of_another_size(path):
    config = json.loads((path / "config.json").read_text())
    config["audio_config"]["depths"] = [1, 1, 1, 2]
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    "spoil",
    [without_audio, without_weights, without_features, without_config, of_another_size],
    ids=lambda f: f.__name__,
)
def test_a_folder_without_a_clap_model_is_refused_in_one_line(spoil, clap_folder, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for file in clap_folder.iterdir():
        (own / file.name).write_bytes(file.read_bytes())
    CLAP(str(own))
    spoil(own)
    with pytest.raises(ValueError, match="own: not the folder of a CLAP model") as error:
        CLAP(str(own))
    assert "\n" not in str(error.value)


def test_without_transformers_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"clap needs the package transformers: pip install 'diffwave-sde\[embeddings\]'"
    ):
        CLAP(str(tmp_path))


# ------------------------------------------------------------------------------------------------ options


def test_an_option_names_an_embedding_and_its_weights(weights):
    assert metrics.embedding("log-mel").name == "log-mel"
    assert metrics.embedding("learned").name == "learned"
    assert metrics.embedding(f"vggish={weights}").name == "vggish"


def test_the_learned_embedding_answers_to_its_former_name_and_says_so(monkeypatch, capsys):
    monkeypatch.setattr(compatibility, "_announced", set())
    assert metrics.embedding("learnt").name == "learned"
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "the embedding learnt is called learned now" in said
    with pytest.raises(ValueError, match=r"nothing\.safetensors"):
        metrics.embedding("learnt=nothing.safetensors")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("ears", "no embedding ears: choose of log-mel, learned"),
        ("vggish", "vggish needs weights of yours, vggish=..."),
        ("clap=", "no embedding clap=: choose of"),
        ("log-mel=file", "no embedding log-mel=file: choose of"),
        ("vggish=/no/such", "/no/such: not the weights of VGGish (no such file)"),
        ("learned=/no/such", "/no/such: not the weights of the learned embedding"),
    ],
)
def test_an_option_that_names_none_is_refused(option, says):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        metrics.embedding(option)
    assert says in str(error.value)
