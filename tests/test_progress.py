"""Progress where the output is not a terminal: plain lines."""

import pytest

from nessa.progress import progress


def test_lines_are_whole_and_without_codes_of_terminals(capsys: pytest.CaptureFixture) -> None:
    """One inside the other, of models whose names have letters of such codes."""
    for _ in progress(range(1), total=1, what="Ada"):
        for _ in progress(range(2), total=2, what="[A] A"):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(("Ada: ", "[A] A: ")) for line in lines)
    assert any(line.startswith("Ada: 1/1 [") for line in lines)
    assert any(line.startswith("[A] A: 2/2 [") for line in lines)
