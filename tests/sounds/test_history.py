import math

from diffwave_sde.sounds import history


def test_what_is_added_is_read_back_and_a_torn_line_is_left_out(tmp_path):
    file = tmp_path / "run" / history.FILE
    history.append(file, 5, {"a": 1.5, "b": math.nan})
    history.append(file, 10, {"a": 0.5})
    with open(file, "ab") as torn:
        torn.write(b'{"step": 15, "a": 0.')
    found = history.read(file)
    assert found["a"] == history.Series((5, 10), (1.5, 0.5))
    assert math.isnan(found["b"].values[0])
    history.cut(file, 10)
    history.append(file, 10, {"a": 0.25})
    assert history.read(file)["a"] == history.Series((5, 10), (1.5, 0.25))


def test_no_file_is_no_figures(tmp_path):
    history.cut(tmp_path / "none", 3)
    assert history.read(tmp_path / "none") == {}
