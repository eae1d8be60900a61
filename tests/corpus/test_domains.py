"""Trials that come with a corpus of several domains, and what is drawn beside them."""

from pathlib import Path

import pytest

from nessa.corpus.config import PrepareConfig
from nessa.corpus.domains import read_domains
from nessa.corpus.finishing import finish_sets
from nessa.corpus.origins import SOURCES
from nessa.evaluation.conditions import read_conditions
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import spk2utt_of
from nessa.trials import Trials

UTT2SPK = {f"s{s}-{k}": f"s{s}" for s in range(4) for k in range(5)}
DOMAINS = {u: "phone" if u[-1] > "2" else "far" for u in UTT2SPK}  # far is more frequent
PHONE = "s0-3 s0-4 target\ns0-3 s1-4 nontarget\n"
FAR = "s0-0 s0-1 target\ns0-0 s1-1 nontarget\n"
COUNTS = {"eval": {"targets": 4, "nontargets": 8}}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "eval"
    write_table(directory / "utt2spk", UTT2SPK)
    write_table(directory / "spk2utt", spk2utt_of(UTT2SPK))
    write_table(directory / "utt2session", {u: u for u in UTT2SPK})
    write_table(directory / "utt2domain", DOMAINS)
    return directory


def finish(directory: Path, **prepare: object) -> set[str]:
    """The names of the trial lists that there are then."""
    settings = {"program": "arks", "trials": COUNTS, "profile_sizes": (1,), **prepare}
    finish_sets(directory.parent, PrepareConfig.model_validate(settings), 1, has_audio=False)
    for path in directory.glob("trials_*"):
        assert path.name == "trials_profile" or domains_of(path) == {path.name[7:]}
    return {path.name for path in directory.glob("trials*")} - {"trials_profile"}


def domains_of(path: Path) -> set[str]:
    trials = Trials.read(path)
    return {DOMAINS[u] for u in (*trials.enroll, *trials.test)}


@pytest.mark.parametrize("named", [{}, {"domains": {"far": "s.*", "phone": "x"}}])
def test_given_trials_count_for_the_domain_that_they_are_of(
    directory: Path, named: dict, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "trials").write_text(PHONE)
    assert finish(directory, **named) == {"trials", "trials_far"}
    assert (directory / "trials").read_text() == PHONE
    names = {condition.name for condition in read_conditions(directory)}
    assert names == {"single", "far", "profile1", "far.profile1"}
    assert "pooled" not in caplog.text and "no trials" not in caplog.text


def test_given_trials_of_several_domains_are_kept_with_a_warning(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "trials").write_text(FAR + PHONE)
    assert finish(directory) == {"trials"}
    assert f"{directory}/trials: trials of domains 'far', 'phone', whose results" in caplog.text
    names = {condition.name for condition in read_conditions(directory)}
    assert names == {"single", "far.profile1", "phone.profile1"}


def test_the_domain_of_a_given_profile_is_that_of_its_utterances(directory: Path) -> None:
    write_table(directory / "enroll_map_given", {"m": "s0-3"})
    (directory / "trials").write_text("m s0-4 target\nm s1-4 nontarget\n")
    assert finish(directory) == {"trials", "trials_far"}


def test_domains_without_trials_are_warned_about(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "trials").write_text(PHONE)
    assert finish(directory, trials={}) == {"trials"}
    assert "eval: domain 'far': no trials; say in prepare.trials.eval how many" in caplog.text
    assert "'trials_far'" in caplog.text and "domain 'phone'" not in caplog.text


def test_a_domain_of_one_speaker_has_no_profiles(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    domains = {u: "phone" if s == "s3" else "far" for u, s in UTT2SPK.items()}
    write_table(directory / "utt2domain", domains)
    (directory / "trials").write_text(FAR)
    finish(directory, trials={})
    assert "eval: domain 'phone': no profiles, for there is only one speaker" in caplog.text
    assert read_table(directory / "enroll_map").keys() >= {"s0-p1-1"}


def test_a_domain_of_too_few_pairs_is_named(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    finish(directory, trials={"eval": {"targets": 2, "nontargets": 1000}})
    for domain, most in (("far", 108), ("phone", 48)):
        assert f"{directory}: domain '{domain}': {most} nontargets drawn instead" in caplog.text


@pytest.fixture
def sets(directory: Path) -> Path:
    """A folder of align, dev and eval, each with as many utterances of each domain."""
    for name in ("align", "dev", "eval"):
        utt2spk = {f"{name}{u}": f"{name}{s}" for u, s in UTT2SPK.items() if u[-1] != "0"}
        folder = directory.with_name(name)
        write_table(folder / "utt2spk", utt2spk)
        write_table(folder / "spk2utt", spk2utt_of(utt2spk))
        write_table(folder / "utt2session", {u: u for u in utt2spk})
        write_table(folder / "utt2domain", {u: DOMAINS[u[len(name) :]] for u in utt2spk})
    return directory.parent


def add_one(folder: Path, domain: str) -> None:
    for table, value in (("utt2spk", f"{folder.name}s0"), ("utt2domain", domain)):
        write_table(folder / table, read_table(folder / table) | {f"{folder.name}s0-9": value})
    write_table(folder / "utt2session", {u: u for u in read_table(folder / "utt2spk")})
    write_table(folder / "spk2utt", spk2utt_of(read_table(folder / "utt2spk")))


def main_domains(data: Path, **prepare: object) -> dict[str, set[str]]:
    """The domains of the main lists of dev and eval that are made."""
    counts = dict.fromkeys(("dev", "eval"), COUNTS["eval"])
    settings = {"program": "arks", "trials": counts, "profile_sizes": (1,), **prepare}
    finish_sets(data, PrepareConfig.model_validate(settings), 1, has_audio=False)
    found = {}
    for name in ("dev", "eval"):
        trials, domains = (
            Trials.read(data / name / "trials"),
            read_table(data / name / "utt2domain"),
        )
        found[name] = {domains[u] for u in (*trials.enroll, *trials.test)}
    return found


def test_the_main_lists_of_dev_and_eval_are_of_one_domain(sets: Path) -> None:
    add_one(sets / "dev", "phone")
    add_one(sets / "align", "far")
    add_one(sets / "eval", "far")
    assert main_domains(sets) == {"dev": {"far"}, "eval": {"far"}}


def test_the_main_list_of_dev_is_of_the_domain_of_given_trials(
    sets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phone = "evals0-3 evals0-4 target\nevals0-3 evals1-4 nontarget\n"
    (sets / "eval/trials").write_text(phone)
    assert main_domains(sets, domains={"far": "x", "phone": "y"}) == {
        "dev": {"phone"}, "eval": {"phone"}
    }  # fmt: skip
    assert "calibrated" not in caplog.text


def test_main_lists_of_different_domains_are_warned_about(
    sets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, test in (("dev", "2"), ("eval", "4")):
        trials = f"{name}s0-{int(test) - 1} {name}s{{}}-{test} {{}}\n"
        (sets / name / "trials").write_text(
            trials.format(0, "target") + trials.format(1, "nontarget")
        )
    main_domains(sets)
    assert f"{sets}/eval/trials: of domain 'phone', but {sets}/dev/trials, by wh" in caplog.text
    profiles, domains = (read_table(sets / "eval" / name) for name in ("enroll_map", "utt2domain"))
    far = {profile for profile, utterance in profiles.items() if domains[utterance] == "far"}
    assert far == {name for name in profiles if name.endswith("-far")}, "phone, eval's, goes first"


def test_what_was_added_is_of_the_domain_of_its_source_whatever_the_patterns(
    tmp_path: Path,
) -> None:
    write_table(tmp_path / "utt2spk", {"a-0": "a", "b-0": "b"})
    write_table(tmp_path / SOURCES, {"b-0": "more"})
    assert read_domains(tmp_path, {"word": ".*"}) == {"a-0": "word", "b-0": "more"}


@pytest.mark.parametrize("lacking", ["align", "eval"])
def test_domains_of_some_sets_are_warned_about(
    sets: Path, lacking: str, caplog: pytest.LogCaptureFixture
) -> None:
    (sets / lacking / "utt2domain").unlink()
    settings = {"program": "arks", "trials": dict.fromkeys(("dev", "eval"), COUNTS["eval"])}
    finish_sets(sets, PrepareConfig.model_validate(settings), 1, has_audio=False)
    assert f"{sets}/{lacking}: no utt2domain, but there is {sets}/" in caplog.text
    assert "calibrated" not in caplog.text


def test_profiles_beside_trials_across_domains_have_results_of_their_own(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "trials").write_text("s0-0 s0-4 target\ns0-0 s1-4 nontarget\n")
    assert finish(directory) == {"trials"}
    assert f"{directory}/trials: trials across domains 'far', 'phone', whose" in caplog.text
    assert "call it trials_<name>" in caplog.text
    names = {condition.name for condition in read_conditions(directory)}
    assert names == {"single", "far.profile1", "phone.profile1"}
