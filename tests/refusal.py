"""What the program says of what it cannot do."""

import pytest

from diffwave_sde.cli import main


def refusal(argv: list[str], captured) -> str:
    """The one line that the program ends with, at exit status 2; `captured` is pytest's capsys or capfd."""
    captured.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    said = [line for line in captured.readouterr().err.splitlines() if line.startswith("diffwave-sde: ")]
    assert len(said) == 1, said
    return said[0]
