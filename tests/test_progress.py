"""Progress where the output is not a terminal: plain lines."""

import logging

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


@pytest.mark.parametrize(("level", "shown"), [(logging.INFO, True), (logging.ERROR, False)])
def test_a_resumed_work_counts_what_was_done_and_quiet_commands_say_nothing(
    capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture, level: int, shown: bool
) -> None:
    caplog.set_level(level, "nessa")  # as the command line and --quiet do
    for _ in progress(range(3), total=5, done=2, what="train old"):
        pass
    assert ("train old: 5/5 [" in capsys.readouterr().err) is shown
