import math
import os

import pytest
import torch

from diffwave_sde.sounds import pictures

CLIP = torch.linspace(0.8, -0.8, 15_000)


@pytest.mark.parametrize(("hz", "level"), [(60, 0.0), (440, -20.0), (5_000, -60.0)])
def test_a_tone_shows_at_its_level_and_frequency(hz, level):
    t = torch.arange(21_000) / 44_100
    column = pictures.spectrogram(10 ** (level / 20) * torch.sin(2 * math.pi * hz * t))[:, 80]
    assert float(column.max()) == pytest.approx(level, abs=1.0)
    row = 191 * math.log(hz / 30) / math.log(22_028 / 30)
    assert abs(int(column.argmax()) - row) < 4


def test_a_picture_is_drawn_whole_for_any_number_of_clips(tmp_path):
    for n, titles in ((1, None), (5, ["a$b_c", "ä", "", "x" * 50, "\\"])):
        pictures.spectrogram_png(tmp_path / "p" / f"{n}.png", torch.stack([CLIP] * n), titles)
        head = (tmp_path / "p" / f"{n}.png").read_bytes()
        assert head.startswith(b"\x89PNG")
        assert head.endswith(b"IEND\xaeB`\x82")
    assert sorted(os.listdir(tmp_path / "p")) == ["1.png", "5.png"]
    with pytest.raises(ValueError, match="titles"):
        pictures.spectrogram_png(tmp_path / "p.png", torch.stack([CLIP]), ["a", "b"])


def test_a_picture_shows_the_page_behind_it_and_its_ink_can_be_read_on_light_and_on_dark(tmp_path):
    from matplotlib import image
    from matplotlib.colors import to_rgb

    pictures.spectrogram_png(tmp_path / "p.png", CLIP[None])
    drawn = image.imread(tmp_path / "p.png")
    assert drawn[0, 0, 3] == 0

    def luminance(colour):
        return sum(
            w * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for w, c in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True)
        )

    ink = luminance(pictures.INK)
    for paper in ("#ffffff", "#1f1d1b"):  # the cards of `page`
        light, dark = sorted((ink, luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 3.5


def test_text_that_no_font_has_is_spelt_and_drawn(tmp_path, recwarn):
    names = ["caf\u00e9", os.fsdecode(b"caf\xe9"), "\u5927\u9f13", "\U0001f941", "a\nb", "\ud800"]
    spelt = ["caf\u00e9", r"caf\xe9", r"\u5927\u9f13", r"\U0001f941", r"a\nb", r"\ud800"]
    assert [pictures.drawable(name) for name in names] == spelt
    pictures.spectrogram_png(tmp_path / "p.png", torch.stack([CLIP[:500]] * len(names)), names)
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_a_picture_of_noise_levels_is_drawn(tmp_path):
    levels = {"learned": torch.tensor([1.0, 0.1]), "uniform": torch.tensor([2.0, 0.2])}
    pictures.noise_levels_png(tmp_path / "p.png", {"2 steps": levels}, marked="learned")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
