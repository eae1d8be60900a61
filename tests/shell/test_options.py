"""utils/parse_options.sh: Kaldi's options without their faults."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

UTILS = ROOT / "utils"

SCRIPT = """#!/usr/bin/env bash
# What the script is for.
#   --nj N   jobs

set -euo pipefail
source "{utils}/log.sh"
source "{utils}/parse_options.sh"
nj=2 work_dir='' skip_bad=false set=() arguments=() secret=untouched
parse_options nj work_dir skip_bad set -- "$@"
check_integer nj 1 8
printf '%s\\n' "nj=$nj" "work_dir=$work_dir" "skip_bad=$skip_bad" "secret=$secret"
printf 'set=%s\\n' "${{set[@]}}"
printf 'argument=%s\\n' "${{arguments[@]}}"
"""


@pytest.fixture
def script(tmp_path: Path):
    path = tmp_path / "script.sh"
    path.write_text(SCRIPT.format(utils=UTILS))

    def run(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", path, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=20
        )

    return run


def test_both_spellings_set_the_same_variable(script):
    assert script("--nj", "4").stdout == script("--nj=4").stdout
    for spelling in ("--work-dir", "--work_dir"):
        assert "work_dir=/a b/c\n" in script(spelling, "/a b/c").stdout


def test_defaults_stay_where_nothing_is_given(script):
    run = script()
    assert run.returncode == 0
    assert "nj=2\nwork_dir=\nskip_bad=false\nsecret=untouched\n" in run.stdout


def test_a_number_with_zeros_before_it_is_decimal(script):
    assert "nj=8\n" in script("--nj", "08").stdout


def test_a_value_keeps_its_characters(script):
    value = "a=b; rm * & \"x\" 'y' ${HOME} \\n (1 2)"
    assert f"work_dir={value}\n" in script("--work-dir", value).stdout


def test_an_array_collects_repeated_values_in_order(script):
    run = script("--set", "a.b=1", "--nj", "3", "--set=c.d=x y", "--set", "e=")
    assert "set=a.b=1\nset=c.d=x y\nset=e=\n" in run.stdout


def test_words_after_the_options_are_left(script):
    assert script("--nj", "3", "one", "--two").stdout.endswith("argument=one\nargument=--two\n")
    assert script("--nj", "3", "--", "--nj").stdout.endswith("argument=--nj\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nj"], "--nj needs a value"),
        (["--nj", "--work-dir", "x"], "--nj needs a value"),
        (["--nj="], "--nj needs a value\n"),
        (["--set", "--a=b"], "--set needs a value; one that begins with -- is written --set=--a=b"),
        (["--sett", "--a=b"], "unknown option --sett"),
        (["--work-dri", "x"], "did you mean --work-dir?"),
        (["--work-dir=~/x"], "the shell leaves ~ after =; write --work-dir ~/x\n"),
        (["--work-dir=~user/x"], "the shell leaves ~ after =; write --work-dir ~user/x\n"),
        (["--set", "~"], "--set: '~'"),
        (["--secret", "x"], "unknown option --secret"),
        (["--PATH", "x"], "unknown option --PATH"),
        (["-n", "3"], "unknown option -n"),
        (["--skip-bad", "yes"], "--skip-bad must be true or false, not 'yes'"),
        (["--nj", "two"], "--nj must be a whole number from 1 to 8, not 'two'"),
        (["--nj", "9"], "--nj must be a whole number"),
        (["--nj", "a[$0]"], "--nj must be a whole number"),
    ],
)
def test_a_fault_is_named_and_exits_with_2(script, arguments, message):
    run = script(*arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("value", ["$(touch canary)", "`touch canary`", "x[$(touch canary)]"])
@pytest.mark.parametrize("option", ["--work-dir", "--nj", "--set", "--skip-bad"])
def test_a_command_in_a_value_is_refused_and_not_run(script, tmp_path, option, value):
    for run in (script(option, value), script(f"{option}={value}")):
        assert run.returncode == 2
        assert option in run.stderr
    assert not (tmp_path / "canary").exists()


def test_a_command_in_an_option_name_is_not_run(script, tmp_path):
    assert script("--x[$(touch canary)]", "1").returncode == 2
    assert not (tmp_path / "canary").exists()


def test_help_is_the_comment_at_the_top(script):
    run = script("--nj", "3", "--help")
    assert run.returncode == 0
    assert run.stdout == "What the script is for.\n  --nj N   jobs\n"


@pytest.mark.parametrize(
    "path",
    ["run.sh", "utils/launch.sh", "utils/gpu_check.sh", "utils/srun_train.sh"],
)
def test_an_exported_cdpath_leads_no_script_astray(path):
    """With one, cd prints where it goes, and may go elsewhere."""
    done = subprocess.run(
        ["bash", f"{ROOT.name}/{path}", "--help"],
        cwd=ROOT.parent,
        env={**os.environ, "CDPATH": str(ROOT.parent)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout) > 100
