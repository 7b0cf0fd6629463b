"""A track in the demo: a small model that hears one, asked by Python, by the server's answers, and by a browser."""

import io
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
import torch
from test_demo_page import ARGS, CHROMIUM, expect, opened, playwright, ready, setup

from diffwave_sde.checkpoint import LoadedModel
from diffwave_sde.demo.server import Server, samples_of, told
from diffwave_sde.demo.start import starting_kit
from diffwave_sde.demo.studio import Settings, Studio
from diffwave_sde.demo.uploads import read_track
from diffwave_sde.model import Model
from diffwave_sde.networks import UNet
from diffwave_sde.samplers import DDIM
from diffwave_sde.sde import EDM

RATE, LENGTH = 8_000, 4_000


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """A model with weights of chance, which a context changes."""
    torch.manual_seed(0)
    net = UNet(1, 2, channels=(8, 8), factors=(5,), blocks=1, embedding=8, heads=2, context="both", context_bands=10)
    for parameter in net.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    path.write_bytes(b"weights of chance")
    module = Model(net, EDM(), sampler=DDIM(2), sigma_data=0.5).eval()
    return Studio(LoadedModel(module, ("saw", "sub"), RATE, LENGTH, 0.0, 0, path))


@pytest.fixture(scope="module")
def server(studio):
    made = Server(studio, starting_kit(studio, 0, 16), port=0)
    made.url = made.launch()
    yield made
    made.close()


def noise(seconds, rate=RATE):
    return 0.3 * np.random.default_rng(1).standard_normal(round(seconds * rate))


def wav(x, rate=RATE) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, x, rate, format="WAV", subtype="FLOAT")
    return file.getvalue()


TRACK = read_track(wav(noise(2)), "track.wav", LENGTH, RATE, 0.5)


def test_all_that_a_pad_is_asked_for_goes_with_the_track(studio):
    alone, quiet, with_it = (Settings(seed=3, track=one) for one in (None, torch.zeros(LENGTH), TRACK))
    x, y = studio.new(["saw", "saw"], [0, 1], Settings(seed=1))
    for ask in (
        lambda how: studio.new(["saw", "sub"], [0, 5], how)[1],
        lambda how: studio.vary(x, "saw", 0.6, how),
        lambda how: studio.inpaint(x, "saw", (0.1, 0.3), how),
        lambda how: studio.morph(x, y, "saw", 0.5, how),
    ):
        made = [ask(how) for how in (alone, quiet, with_it)]
        torch.testing.assert_close(made[0], made[1], rtol=1e-4, atol=1e-4)
        assert (made[0] - made[2]).abs().max() > 1e-3


def test_a_track_is_taken_at_its_own_level_from_where_it_is_asked_for():
    x = noise(2)
    assert torch.equal(TRACK, torch.from_numpy(x[4_000:8_000]).float())
    assert read_track(wav(noise(1, 16_000), 16_000), "t.wav", LENGTH, RATE).shape == (LENGTH,)
    short = read_track(wav(x[:100]), "t.wav", LENGTH, RATE)
    assert torch.equal(short[:100], torch.from_numpy(x[:100]).float())
    assert not short[100:].any()


@pytest.mark.parametrize(
    ("data", "begin", "says"),
    [
        (wav(noise(1)), 3, "track.wav: holds only silence from 3 s on"),
        (wav(np.zeros(9_000)), 0, "track.wav: holds only silence from 0 s on, for 0.50 s."),
        (b"words", 0, "track.wav: not readable as audio"),
        (wav(noise(1)), -1, "track.wav: from -1 s on: choose 0 to 600"),
    ],
)
def test_a_wrong_track_is_refused_in_words(server, data, begin, says):
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        answer = client.post("/demo/track", params={"name": "track.wav", "begin": begin}, content=data)
        assert answer.status_code == 422
        assert says in answer.json()["error"]
        right = client.post("/demo/track", params={"name": "track.wav", "begin": 0.5}, content=wav(noise(2)))
        assert torch.equal(samples_of(right.json()["samples"], LENGTH), TRACK)
        assert client.get("/demo/start").json()["hears"]


def test_a_model_that_hears_nothing_refuses_a_track(server, monkeypatch, studio):
    with pytest.raises(ValueError, match="a sound here is 4000 finite samples, not 3"):
        server._settings({"track": told(torch.zeros(3), RATE)["samples"]})
    monkeypatch.setattr(studio.model.module.denoiser.net, "context", "none")
    with pytest.raises(ValueError, match="trained without contexts and cannot hear a track"):
        studio.new(["saw"], [0], Settings(track=TRACK))


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
def test_a_part_is_made_for_the_track_and_heard_with_it(server, studio):
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = opened(browser, server)
        page.evaluate(
            """() => { const start = AudioBufferSourceNode.prototype.start; window.started = [];
            AudioBufferSourceNode.prototype.start = function (...at) {
              window.started.push(Array.from(this.buffer.getChannelData(0).slice(0, 3)));
              return start.apply(this, at); } }"""
        )
        page.fill("#track-begin", "0.5")
        page.set_input_files("#track-file", {"name": "mine.wav", "mimeType": "audio/wav", "buffer": wav(noise(2))})
        expect(page.locator("#track-name")).to_have_text("new sounds go with mine.wav, 0.50 s from 0.5 s on")
        setup(page, seed=4)
        page.locator('input[name="class"][value="sub"]').check()
        page.locator(".pad .hit").nth(2).click()
        page.click("#one")
        ready(page)
        expect(page.locator("#how")).to_have_text("new, sound 2 of seed 4, for mine.wav from 0.5 s")
        with page.expect_download() as download:
            page.click("#wav")
        part = soundfile.read(io.BytesIO(Path(download.value.path()).read_bytes()), dtype="float32")[0]
        expected = studio.new(["sub"], [2], Settings("DDIM", 3, None, 4, TRACK))[0]
        assert np.abs(part - expected.numpy()).max() < 1e-4
        page.evaluate("window.started.length = 0")
        page.locator(".pad .hit").nth(2).click()
        both = page.evaluate("window.started")
        assert np.abs(np.array(both) - np.stack([part[:3], TRACK[:3]])).max() < 1e-4
        page.uncheck("#track-with")
        page.evaluate("window.started.length = 0")
        page.locator(".pad .hit").nth(2).click()
        assert len(page.evaluate("window.started")) == 1
        page.click("#track-none")
        page.click("#one")
        ready(page)
        expect(page.locator("#command")).to_contain_text("--label sub --seed 4 --n 3")
        page.set_input_files("#track-file", {"name": "no.wav", "mimeType": "audio/wav", "buffer": b"words" * 9})
        expect(page.locator("#message")).to_contain_text("no.wav: not readable as audio")
        assert not [fault for fault in page.faults if "status of 4" not in fault]
        browser.close()
