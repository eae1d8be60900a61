"""Profiles of an enrollment map: whose means are taken for them, and whose are refused."""

from pathlib import Path

import pytest

from nessa.alignment.linear import ProcrustesAligner
from nessa.errors import InputError
from nessa.files import write_table
from nessa.kaldi.embeddings import profile_means
from nessa.kaldi.stamps import ModelStamp
from nessa.production.mapping import map_sides
from nessa.scoring.sides import score_trials
from tests.pairs import two_views


def test_means_of_all_utterances_of_a_speaker_are_no_profiles_of_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Among all are those that are tested, too."""
    x, y, utt2spk = two_views(6, 3)
    x.write(tmp_path / "raw", utt2spk)
    y.write(tmp_path / "y")
    one, two, three = x.keys[:3]
    (tmp_path / "trials").write_text(f"id00000 {three}\n")
    aligner, enroll_map = ProcrustesAligner().fit(x, y, utt2spk), tmp_path / "map"
    raw, own = tmp_path / "raw/spk_xvector.scp", tmp_path / "own.scp"
    profile_means(x, {"id00000": [one, two]}).write_ark(tmp_path / "own.ark", own)
    for source in (raw, raw.with_suffix(".ark"), own):
        to = tmp_path / f"of_{source.name}"
        map_sides(aligner, source, tmp_path / "y", None, to)
        for enroll, runtime in ((source, tmp_path / "raw"), (to / "enroll", to / "runtime")):
            words = enroll, runtime, tmp_path / "trials", tmp_path / "out", enroll_map
            write_table(enroll_map, {"id00000": f"{one} {two}"})
            if source == own:  # of a product, which does not say of what
                score_trials(*words)
                continue
            caplog.clear()
            with pytest.raises(InputError, match=f"{enroll_map}: of other utterances than .*mean"):
                score_trials(*words)
            write_table(enroll_map, {"id00000": f"{one} {two} {three}"})
            score_trials(*words)
            assert not caplog.text
    assert not (tmp_path / "of_own.scp/enroll/num_utts.ark").exists()
    map_sides(aligner, tmp_path / "raw", tmp_path / "y", None, tmp_path / f"of_{raw.name}")
    assert not (tmp_path / f"of_{raw.name}/enroll/num_utts.ark").exists()


def test_profiles_of_an_unknown_model_are_averaged_before_they_are_mapped_and_of_the_same_map(
    tmp_path: Path,
) -> None:
    x, y, utt2spk = two_views(6, 3)
    x.stamp = None
    x.write(tmp_path / "x")
    y.write(tmp_path / "y")
    one, two, three = x.keys[:3]
    (tmp_path / "trials").write_text(f"p {three}\n")
    aligner, enroll_map = ProcrustesAligner().fit(x, y, utt2spk), tmp_path / "map"
    for number, given in enumerate((enroll_map, None)):
        write_table(enroll_map, {"p": f"{one} {two}"})
        to = tmp_path / f"mapped{number}"
        map_sides(aligner, tmp_path / "x", tmp_path / "y", given, to)
        words = to / "enroll", to / "runtime", tmp_path / "trials", tmp_path / "out", enroll_map
        if given:
            score_trials(*words)
            write_table(enroll_map, {"p": f"{one} {three}"})
        told = "of other utterances than was mapped" if given else "mapped, but without profile"
        with pytest.raises(InputError, match=told):
            score_trials(*words)


def test_profiles_that_an_earlier_version_mapped_are_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It kept no map beside them; nor is one there of the stamped means of a product."""
    x, y, utt2spk = two_views(6, 3)
    x.stamp = ModelStamp("x", "f" * 64, "eval")
    (own := profile_means(x, {"p": x.keys[:2]})).stamp = x.stamp
    own.write(tmp_path / "own")
    x.write(tmp_path / "x")
    y.write(tmp_path / "y")
    write_table(tmp_path / "map", {"p": " ".join(x.keys[:2])})
    (tmp_path / "trials").write_text(f"p {x.keys[2]}\n")
    aligner = ProcrustesAligner().fit(x, y, utt2spk)
    map_sides(aligner, tmp_path / "x", tmp_path / "y", tmp_path / "map", tmp_path / "before")
    (tmp_path / "before/enroll/mapped_enroll_map").unlink()
    map_sides(aligner, tmp_path / "own", tmp_path / "y", None, tmp_path / "mapped")
    for place in (tmp_path / "before", tmp_path / "mapped"):
        caplog.clear()
        words = tmp_path / "trials", tmp_path / "out", tmp_path / "map"
        score_trials(place / "enroll", place / "runtime", *words)
        assert f"map: nothing beside {place}/enroll tells whether 'p' are " in caplog.text


def test_a_map_beside_raw_embeddings_says_nothing_of_profiles(tmp_path: Path) -> None:
    x, _, _ = two_views(6, 3)
    members = {"p": list(x.keys[:2])}
    profile_means(x, members).write(tmp_path / "raw")
    x.write(tmp_path / "y")
    for name in ("enroll_map", "mapped_enroll_map"):
        write_table(tmp_path / "raw" / name, {"p": x.keys[5]})
    write_table(tmp_path / "map", {"p": " ".join(members["p"])})
    (tmp_path / "trials").write_text(f"p {x.keys[2]}\n")
    words = tmp_path / "trials", tmp_path / "out", tmp_path / "map"
    assert "1 trials" in score_trials(tmp_path / "raw", tmp_path / "y", *words)
