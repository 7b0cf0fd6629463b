"""The page in a real browser: each control used, what arrives decoded and compared, hits measured to the sample."""

import io
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from diffwave_sde.demo import uploads
from diffwave_sde.demo.studio import Settings
from diffwave_sde.demo.takeaway import measures
from diffwave_sde.kits import keys

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e '.[dev]'")
expect = playwright.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no browser: apt-get install chromium")
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-component-update",
    "--disable-sync", "--autoplay-policy=no-user-gesture-required",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


def opened(browser, server, **options):
    page = browser.new_context(**({"viewport": {"width": 1360, "height": 900}} | options)).new_page()
    page.asked, page.faults = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: page.faults.append(said.text) if said.type == "error" else None)
    page.goto(server.url)
    page.wait_for_selector("html[data-ready=yes]", timeout=20_000)
    return page


@pytest.fixture
def page(browser, server):
    page = opened(browser, server)
    yield page
    # Of every test: nothing came from outside, and nothing went wrong unseen.
    outside = [url for url in page.asked if not url.startswith((server.url, "blob:" + server.url, "data:"))]
    faults = [fault for fault in page.faults if "status of 4" not in fault]  # what is refused is tested for itself
    page.context.close()
    assert not outside
    assert not faults


def ready(page):
    expect(page.locator("#cancel")).to_be_hidden(timeout=60_000)
    expect(page.locator("#status")).to_have_text("Ready")


def sound(page, pad):
    """The samples of a pad, as it is saved."""
    page.locator(".pad .hit").nth(pad).click()
    return saved_wav(page, "#wav")[0]


def saved(page, button) -> tuple[bytes, str]:
    with page.expect_download() as download:
        page.click(button)
    return Path(download.value.path()).read_bytes(), download.value.suggested_filename


def saved_wav(page, button):
    data, _ = saved(page, button)
    x, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate == 44_100
    return x, soundfile.info(io.BytesIO(data)).subtype


def setup(page, seed, steps=3, sampler="DDIM"):
    page.select_option("#sampler", sampler)
    page.fill("#steps", str(steps))
    page.fill("#seed", str(seed))
    page.check("#lock")


def close(a, b, tolerance=1e-4):
    return np.abs(np.asarray(a) - np.asarray(b)).max() < tolerance


def test_the_first_kit_is_that_of_the_seed(page, server):
    expected = server.studio.new(["kick", "snare"], [0, 5], Settings(seed=0))
    assert close(sound(page, 0), expected[0])
    assert close(sound(page, 5), expected[1])
    expect(page.locator("#track-room")).to_be_hidden()  # a model that hears no track


def test_all_some_and_one_are_made_as_the_seed_and_the_settings_say(page, server):
    setup(page, seed=7)
    page.click("#all")
    ready(page)
    how = Settings(sampler="DDIM", steps=3, seed=7)
    assert close(sound(page, 15), server.studio.new(["cymbal"], [15], how)[0])
    assert "--label cymbal --seed 7 --n 16 --sampler DDIM --sampler.steps 3" in page.inner_text("#command")
    page.locator('input[name="class"][value="a mix"]').check()
    for k, share in enumerate((0, 75, 25)):
        page.locator(f"#share-{k}").fill(str(share))
    page.locator("#guidance").fill("1.5")
    page.fill("#seed", "8")
    for pad in (2, 9):
        page.locator(".pad input[type=checkbox]").nth(pad).check()
    expect(page.locator("#chosen")).to_have_text("Generate selected (2)")
    kept = sound(page, 3)
    page.click("#chosen")
    ready(page)
    mixed = server.studio.new(["kick:0.75+snare:0.25"] * 2, [2, 9], Settings("DDIM", 3, 1.5, 8))
    assert close(sound(page, 2), mixed[0])
    assert close(sound(page, 9), mixed[1])
    assert close(sound(page, 3), kept, 1e-9)
    page.locator('input[name="class"][value="snare"]').check()
    page.locator(".pad .hit").nth(3).click()
    page.click("#one")
    ready(page)
    assert close(sound(page, 3), server.studio.new(["snare"], [3], Settings("DDIM", 3, 1.5, 8))[0])
    page.uncheck("#lock")
    page.click("#one")
    ready(page)
    assert page.input_value("#seed") != "8"


def test_a_sound_is_varied_remade_morphed_and_brought_back(page, server):
    setup(page, seed=3)
    before, other, how = sound(page, 0), sound(page, 4), Settings(sampler="DDIM", steps=3, seed=3)
    page.locator(".pad .hit").nth(0).click()
    page.locator("#strength").fill("0.6")
    page.click("#vary")
    ready(page)
    varied = sound(page, 0)
    assert close(varied, server.studio.vary(torch.from_numpy(before), "kick", 0.6, how))
    assert not close(varied, before, 1e-3)
    page.click("#undo")
    assert close(sound(page, 0), before, 1e-9)
    box = page.locator("#wave").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 30, steps=4)
    page.mouse.up()
    begin, end = int(page.input_value("#begin")), int(page.input_value("#end"))
    assert abs(begin - 119) <= 2
    assert abs(end - 238) <= 2
    page.click("#inpaint")
    ready(page)
    remade = sound(page, 0)
    region = (begin / 1000, end / 1000)
    assert close(remade, server.studio.inpaint(torch.from_numpy(before), "kick", region, how))
    assert (remade == before)[: int(region[0] * 44100)].all()
    page.click("#undo")
    page.select_option("#other", "4")
    page.locator("#amount").fill("0.25")
    page.click("#morph")
    ready(page)
    a, b = torch.from_numpy(before), torch.from_numpy(other)
    assert close(sound(page, 0), server.studio.morph(a, b, "kick", 0.25, how))


def test_cancel_stops_it_and_leaves_the_pads(page):
    before = sound(page, 0)
    setup(page, seed=1, steps=200)
    page.click("#one")
    expect(page.locator("#status")).to_contain_text("%")
    page.click("#cancel")
    expect(page.locator("#status")).to_have_text("Cancelled", timeout=10_000)
    assert close(sound(page, 0), before, 1e-9)
    page.fill("#steps", "2")
    page.click("#one")  # and it goes on working
    ready(page)


def test_a_second_tab_is_told_that_it_waits(page, browser, server):
    other = opened(browser, server)
    setup(page, seed=1, steps=200)
    page.click("#one")
    expect(page.locator("#status")).to_contain_text("%")
    setup(other, seed=1, steps=2)
    other.click("#one")
    expect(other.locator("#status")).to_contain_text("Waiting in the queue, 1 to go")
    page.click("#cancel")
    ready(other)
    other.context.close()


def test_files_are_opened_and_dropped_and_wrong_ones_refused_in_words(page):
    x = 0.5 * np.exp(-np.arange(4_000) / 900) * np.sin(np.arange(4_000) / 9)
    file = io.BytesIO()
    soundfile.write(file, x, 44_100, format="WAV", subtype="FLOAT")
    page.set_input_files("#file", {"name": "mine.wav", "mimeType": "audio/wav", "buffer": file.getvalue()})
    expect(page.locator("#how")).to_have_text("the file mine.wav")
    opened_sound = sound(page, 0)
    assert close(opened_sound, uploads.read(file.getvalue(), "mine.wav", 21_000, 44_100), 1e-9)
    page.evaluate(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.wav"));
        document.querySelectorAll(".pad")[6].dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true,
        cancelable: true})); }""",
        list(file.getvalue()),
    )
    expect(page.locator("#how")).to_have_text("the file dropped.wav")
    assert close(sound(page, 6), opened_sound, 1e-9)
    page.set_input_files("#file", {"name": "notes.wav", "mimeType": "audio/wav", "buffer": b"only text " * 50})
    expect(page.locator("#message")).to_contain_text("notes.wav: not readable as audio")
    assert close(sound(page, 6), opened_sound, 1e-9)


def label(pad):
    return ("kick", "snare", "cymbal", "cymbal")[pad // 4]


def steps_of(page):
    """Velocities by pad and step, as a screen reader hears them."""
    cells = page.locator(".step").evaluate_all("all => all.map(one => +one.dataset.velocity)")
    return np.reshape(cells, (16, 16))


def test_the_beat_is_saved_with_each_hit_on_its_sample(page):
    sounds = [sound(page, pad) for pad in range(16)]
    page.select_option("#pattern", "Breakbeat")
    page.fill("#tempo", "133")
    page.locator("#swing").fill("61")
    page.select_option("#bars", "2")
    pattern, sixteenth = steps_of(page), 15 / 133
    assert (pattern > 0).sum() > 8
    mix, hats = np.zeros(200_000), []
    parts = keys.assign([keys.Hit(label(pad), *measures(torch.tensor(x), 44_100)) for pad, x in enumerate(sounds)])
    for step in range(32):
        at = sixteenth * (step - step % 2 + (2 * 0.61 if step % 2 else 0))
        for pad, velocity in enumerate(pattern[:, step % 16]):
            first = round(at * 44_100)
            if velocity and parts[pad].choke:
                hats.append((first, velocity, pad))
            else:
                mix[first : first + 21_000] += (velocity / 127) ** 2 * sounds[pad]
    assert len({pad for _, _, pad in hats}) >= 1
    # Each hit of a hat fades what sounds of the hats, in 5 ms.
    for (first, velocity, pad), after in zip(hats, [*(at for at, _, _ in hats[1:]), 10**6], strict=True):
        fade = 1 - np.clip((np.arange(first, first + 21_000) - after) / (0.005 * 44_100), 0, 1)
        mix[first : first + 21_000] += (velocity / 127) ** 2 * fade * sounds[pad]
    beat, subtype = saved_wav(page, "#beat-wav")
    assert subtype == "PCM_24"
    mix = mix[: len(beat)]
    gain = min(1, 10 ** (-1 / 20) / np.abs(mix).max())
    assert close(beat, gain * mix, 1e-5)


DRIFT = """async () => {
  const { Sequencer, timeOf } = await import("/page/sequencer.js");
  const { Voices } = await import("/page/voices.js");
  const rate = 44100, seconds = 121, tempo = 117, swing = 58;
  const context = new OfflineAudioContext(1, seconds * rate, rate);
  let now = 0;
  Object.defineProperty(context, "currentTime", { get: () => now });
  const pattern = Array.from({ length: 16 }, () => Array(16).fill(0));
  for (const step of [0, 5, 11]) pattern[3][step] = 127;
  const click = { samples: Float32Array.of(1), rate };
  const sequencer = new Sequencer(context, new Voices(context, context.destination), () => ({ pattern,
    sounds: Array(16).fill(click), groups: Array(16).fill(null), tempo, swing }));
  sequencer.begin({ terminate() {} });
  for (let i = 0; now < 120; i++) now += [0.025, 0.03, 0.12, 0.025, 0.18][i % 5], sequencer.advance();
  const made = (await context.startRendering()).getChannelData(0), onsets = [];
  made.forEach((x, i) => { if (x) onsets.push([i, x]); });
  return onsets;
}"""


def test_the_sequencer_does_not_drift_in_two_minutes_of_a_late_timer(page):
    found = page.evaluate(DRIFT)
    sixteenth = 15 / 117
    steps = [i for i in range(1_000) if i % 16 in (0, 5, 11)][: len(found)]
    times = [0.06 + sixteenth * (i - i % 2 + (1.16 if i % 2 else 0)) for i in steps]
    assert times[-1] > 118
    assert [at for at, _ in found] == [round(t * 44_100) for t in times]
    assert all(level == 1 for _, level in found)


def test_steps_are_set_by_mouse_and_keys_and_undone(page):
    page.click("#clear")
    assert not steps_of(page).any()
    cell = page.locator('.step[data-pad="2"][data-step="5"]')
    cell.click()
    assert steps_of(page)[2, 5] == 100
    box = cell.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 8)
    page.mouse.down()
    page.mouse.move(box["x"] + 5, box["y"] + 48, steps=5)
    page.mouse.up()
    assert steps_of(page)[2, 5] == 60
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("+")
    assert steps_of(page)[3, 6] == 110
    page.keyboard.press("Control+z")
    page.keyboard.press("Control+z")
    assert steps_of(page)[3, 6] == 0
    assert steps_of(page).sum() == 60
    page.locator("#beat-title").click()
    page.keyboard.press("Space")
    expect(page.locator("#play")).to_have_text("Stop")
    expect(page.locator(".step.now").first).to_be_visible()
    page.click("#play")
    expect(page.locator("#play")).to_have_text("Play")


def test_pads_and_beat_outlive_a_reload_and_what_was_undone_is_done_again(page):
    page.select_option("#pattern", "Electro")
    setup(page, seed=21)
    page.locator(".pad .hit").nth(2).click()
    page.click("#one")
    ready(page)
    made = sound(page, 2)
    page.click("#undo")
    undone = sound(page, 2)
    assert not close(undone, made, 1e-3)
    page.keyboard.press("Control+Shift+z")
    assert close(sound(page, 2), made, 1e-9)
    expect(page.locator("#redo")).to_be_disabled()
    page.locator('.step[data-pad="7"][data-step="3"]').click()
    page.fill("#tempo", "77")
    page.locator("#tempo").blur()
    pattern = steps_of(page)
    kept = "JSON.parse(sessionStorage['diffwave-sde'] ?? '{}').settings?.tempo"
    while page.evaluate(kept) != "77":
        page.wait_for_timeout(50)
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert close(sound(page, 2), made, 1e-9)
    assert (steps_of(page) == pattern).all()
    assert page.input_value("#tempo") == "77"


def test_the_hats_of_the_page_are_those_of_the_kit(page):
    parts = page.locator(".pad .seed").all_inner_texts()
    hats = [i for i, text in enumerate(parts) if " hat, " in text]
    assert sorted(parts[i].split(",")[0] for i in hats) == ["closed hat", "open hat", "pedal hat"]
    data, _ = saved(page, "#kit")
    archive = zipfile.ZipFile(io.BytesIO(data))
    sfz = archive.read(next(name for name in archive.namelist() if name.endswith(".sfz"))).decode()
    choked = {int(n) for n in re.findall(r"off_by=1.*\n<region> sample=Cymbal (\d+)\.wav", sfz)}
    assert choked == {i - 7 for i in hats}


def test_pads_are_played_by_keys(page):
    for key, pad in (("2", 1), ("q", 4), ("f", 11), ("v", 15)):
        page.keyboard.press(key)
        expect(page.locator(".pad").nth(pad)).to_have_class(re.compile("current.*struck|struck.*current"))
    page.locator(".hit").nth(7).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".pad").nth(7)).to_have_class(re.compile("current.*struck|struck.*current"))


def test_the_kit_is_saved(page):
    page.fill("#kit-name", "Mine")
    page.select_option("#kit-rate", "48000")
    data, name = saved(page, "#kit")
    names = zipfile.ZipFile(io.BytesIO(data)).namelist()
    assert name == "Mine.zip"
    assert len([name for name in names if name.endswith(".wav")]) == 16
    assert {"Mine/Mine.sfz", "Mine/Mine.h2drumkit", "Mine/Mine.dspreset"} < set(names)


CONTRAST = """() => {
  const light = c => { const n = parseInt(c.slice(1), 16);
    return [n >> 16, n >> 8 & 255, n & 255].map(v => v / 255)
      .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0); };
  const of = name => light(getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim());
  const ratio = (a, b) => (Math.max(of(a), of(b)) + .05) / (Math.min(of(a), of(b)) + .05);
  const text = [["text", "panel"], ["text", "ground"], ["quiet", "panel"], ["quiet", "ground"], ["quiet", "well"],
    ["on-main", "main"], ["bad", "bad-ground"], ...[0, 1, 2, 3, 4].flatMap(i => [["hue-" + i, "panel"]])];
  const marks = [["edge", "panel"], ["edge", "well"], ...[0, 1, 2, 3, 4].map(i => ["hue-" + i, "well"])];
  return [...text.map(([a, b]) => [a, b, ratio(a, b), 4.5]), ...marks.map(([a, b]) => [a, b, ratio(a, b), 3])];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 390])
def test_it_can_be_read_and_nothing_is_cut_off(browser, server, scheme, width):
    page = opened(browser, server, color_scheme=scheme, viewport={"width": width, "height": 860})
    assert [pair for pair in page.evaluate(CONTRAST) if pair[2] < pair[3]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    nameless = "all => all.filter(one => !one.labels?.length && !one.ariaLabel && !one.textContent.trim()).length"
    assert page.locator("button, input:not([hidden]), select").evaluate_all(nameless) == 0
    page.context.close()
