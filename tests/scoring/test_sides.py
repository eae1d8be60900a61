"""Scoring of a trial list on disk: cosine, profiles, AS-norm, calibration, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nessa.alignment.linear import ProcrustesAligner
from nessa.errors import InputError
from nessa.files import read_json, write_json, write_table
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.metrics.roc import eer, min_dcf
from nessa.production.mapping import map_sides
from nessa.scoring.calibration import Calibration, fit_calibration
from nessa.scoring.normalization import as_norm
from nessa.scoring.quality import ENROLL_COUNT, TEST_DURATION
from nessa.scoring.sides import score_trials
from nessa.trials import Trials, read_scores
from tests.aligners import fitted, views_for
from tests.pairs import all_trials, two_views


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path, Trials]:
    """Two directories in one space, and labeled trials, of which a list is at tmp_path/trials."""
    x, _, utt2spk = two_views(6, 3)
    _, y, _ = two_views(6, 3, dims=(20, 12))
    x.write(tmp_path / "x")
    Embeddings(y.keys, y.matrix, x.stamp).write(tmp_path / "y")
    trials = all_trials(utt2spk)
    trials.write(tmp_path / "trials")
    return tmp_path / "x", tmp_path / "y", trials


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return (left * right).sum(axis=1) / norms


def test_scores_are_cosines_in_trial_order_and_the_line_tells_their_eer(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    enroll, runtime, trials = sides
    output = tmp_path / "deep/scores"
    line = score_trials(enroll, runtime, tmp_path / "trials", output)
    scored, scores = read_scores(output)
    assert (scored.enroll, scored.test) == (trials.enroll, trials.test)
    left, right = Embeddings.read(enroll), Embeddings.read(runtime)
    expected = cosines(left.matrix[left.rows(trials.enroll)], right.matrix[right.rows(trials.test)])
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    error, cost = eer(scores, trials.labels), min_dcf(scores, trials.labels)
    assert line == f"{output}: {len(trials)} trials, EER {error:.2%}, minDCF {cost:.3f}"


def test_unlabeled_trials_are_scored_without_an_eer(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    *directories, trials = sides
    Trials(trials.enroll, trials.test).write(tmp_path / "unlabeled")
    labeled, unlabeled = tmp_path / "labeled.scores", tmp_path / "unlabeled.scores"
    score_trials(*directories, tmp_path / "trials", labeled)
    line = score_trials(*directories, tmp_path / "unlabeled", unlabeled)
    assert line == f"{unlabeled}: {len(trials)} trials"
    assert labeled.read_bytes() == unlabeled.read_bytes()


def test_a_profile_named_as_one_of_the_utterances_is_refused(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    """Else the utterance would be scored in the place of the mean, and nothing said."""
    *directories, trials = sides
    one, two = trials.enroll_index.names[:2]
    write_table(tmp_path / "enroll_map", {one: f"{one} {two}"})
    words = *directories, tmp_path / "trials", tmp_path / "scores", tmp_path / "enroll_map"
    with pytest.raises(InputError, match=f"enroll_map: '{one}' is an utterance, and a profile"):
        score_trials(*words)
    assert not (tmp_path / "scores").exists()
    write_table(tmp_path / "enroll_map", {one: one})  # a profile of itself alone
    score_trials(*words)


def test_profiles_are_averaged_from_the_enrollment_side(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    enroll, runtime, trials = sides
    utterances, test = trials.enroll_index.names[:2], trials.test_index.names[4]
    write_table(tmp_path / "enroll_map", {"id00000-p2-0": " ".join(utterances)})
    (tmp_path / "profiles").write_text(f"id00000-p2-0 {test}\n")
    words = enroll, runtime, tmp_path / "profiles", tmp_path / "out", tmp_path / "enroll_map"
    score_trials(*words)
    mean = Embeddings.read(enroll).select(utterances).matrix.mean(axis=0, keepdims=True)
    expected = cosines(mean, Embeddings.read(runtime).select([test]).matrix)
    np.testing.assert_allclose(read_scores(tmp_path / "out")[1], expected, atol=1e-6)


def test_profiles_that_no_trial_names_need_no_embeddings(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    *directories, trials = sides
    (one, two), test = trials.enroll_index.names[:2], trials.test_index.names[4]
    words = *directories, tmp_path / "trials", tmp_path / "out", tmp_path / "enroll_map"
    for ids in ([one], ["p", one]):
        (tmp_path / "trials").write_text("".join(f"{id_} {test}\n" for id_ in ids))
        write_table(tmp_path / "enroll_map", {"p": f"{one} {two}"})
        score_trials(*words)
        alone = (tmp_path / "out").read_bytes()
        write_table(tmp_path / "enroll_map", {"p": f"{one} {two}", "q": "elsewhere"})
        score_trials(*words)
        assert (tmp_path / "out").read_bytes() == alone
    write_table(tmp_path / "enroll_map", {"p": f"{one} elsewhere"})
    with pytest.raises(InputError, match=r"enroll_map, .*x: no vector for 'elsewhere'"):
        score_trials(*words)
    (tmp_path / "trials").write_text(f"of-another-map {test}\n")
    with pytest.raises(InputError, match=r"enroll_map, .*x: no vector for 'of-another-map'"):
        score_trials(*words)


def test_profiles_that_are_mapped_already_are_not_averaged_again(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    enroll, runtime, trials = sides
    utterances, test = trials.enroll_index.names[:2], trials.test_index.names[4]
    write_table(tmp_path / "enroll_map", {"id00000-p2-0": " ".join(utterances)})
    (tmp_path / "profiles").write_text(f"id00000-p2-0 {test}\n")
    vectors = Embeddings.read(enroll)
    stored = np.float32(np.arange(vectors.dim) + 1)  # a profile unlike the mean
    matrix = np.vstack([vectors.matrix, stored])
    Embeddings([*vectors.keys, "id00000-p2-0"], matrix, vectors.stamp).write(tmp_path / "mapped")
    words = tmp_path / "mapped", runtime, tmp_path / "profiles", tmp_path / "out"
    score_trials(*words, enroll_map=tmp_path / "enroll_map")
    expected = cosines(stored[None], Embeddings.read(runtime).select([test]).matrix)
    np.testing.assert_allclose(read_scores(tmp_path / "out")[1], expected, atol=1e-6)


def test_profiles_are_not_averaged_after_mapping(tmp_path: Path) -> None:
    """A profile is averaged in the enrollment model's own space, and then mapped."""
    x, y, utt2spk = two_views(6, 3)
    x.write(tmp_path / "raw/x")
    y.write(tmp_path / "raw/y")
    aligner = ProcrustesAligner().fit(x, y, utt2spk)
    raw = tmp_path / "raw/x", tmp_path / "raw/y"
    mapped = tmp_path / "mapped/enroll", tmp_path / "mapped/runtime"
    utterances, test = " ".join(x.keys[:2]), x.keys[2]
    enroll_map = tmp_path / "enroll_map"
    write_table(enroll_map, {"id00000-p2-0": utterances, "id00000-p1-0": x.keys[0]})
    (tmp_path / "profiles").write_text(f"id00000-p2-0 {test}\nid00000-p1-0 {test}\n")
    words = *mapped, tmp_path / "profiles", tmp_path / "out", enroll_map
    map_sides(aligner, *raw, None, tmp_path / "mapped")
    with pytest.raises(InputError, match=f"{mapped[0]}: mapped, but .* 'id00000-p2-0' of .*--enr"):
        score_trials(*words)
    score_trials(*words, exemplars="max")
    map_sides(aligner, *raw, enroll_map, tmp_path / "mapped")
    score_trials(*words)
    before = (tmp_path / "out").read_bytes()
    turned = " ".join(reversed(x.keys[:2]))
    write_table(enroll_map, {"id00000-p1-0": x.keys[0], "id00000-p2-0": turned})
    score_trials(*words)
    assert (tmp_path / "out").read_bytes() == before
    write_table(enroll_map, {"id00000-p2-0": f"{utterances} {x.keys[3]}", "other": x.keys[1]})
    (tmp_path / "profiles").write_text(f"id00000-p2-0 {test}\n")
    refused = f"{enroll_map}: of other utterances than was mapped, see {mapped[0]}/mapped_enroll_m"
    for enroll in (mapped[0], mapped[0] / "xvector.scp"):
        with pytest.raises(InputError, match=refused):
            score_trials(enroll, *words[1:])
    map_sides(aligner, *raw, enroll_map, tmp_path / "mapped")
    score_trials(*words)
    assert (tmp_path / "out").read_bytes() != before
    map_sides(aligner, *raw, None, tmp_path / "mapped")
    assert not (mapped[0] / "mapped_enroll_map").exists()


@pytest.mark.parametrize("mapped", [False, True])
def test_profiles_of_which_some_alone_are_there_are_refused(
    sides: tuple[Path, Path, Trials], tmp_path: Path, mapped: bool
) -> None:
    """Else means of mapped utterances would stand in the place of those that are there."""
    enroll, runtime, trials = sides
    one, two, three, four = trials.enroll_index.names[:4]
    vectors = Embeddings.read(enroll)
    matrix = np.vstack([vectors.matrix, vectors.matrix[:1]])
    stamp = vectors.stamp and vectors.stamp.mapped("neural", vectors.stamp.fingerprint, "m")
    stamp = stamp if mapped else vectors.stamp
    Embeddings([*vectors.keys, "p"], matrix, stamp).write(tmp_path / "some")
    (tmp_path / "profiles").write_text(f"p {three}\nq {three}\n")
    words = tmp_path / "some", runtime, tmp_path / "profiles", tmp_path / "out"
    write_table(tmp_path / "enroll_map", {"p": f"{one} {two}", "q": f"{three} {four}"})
    with pytest.raises(InputError, match=r"enroll_map, .*some: .* without .*: 'q'; ") as refusal:
        score_trials(*words, enroll_map=tmp_path / "enroll_map")
    assert ("nessa map" in str(refusal.value)) == mapped
    if mapped:
        write_table(tmp_path / "some/mapped_enroll_map", {"p": f"{one} {two}"})
    (tmp_path / "profiles").write_text(f"p {three}\n{one} {three}\n")  # no trial names q
    score_trials(*words, enroll_map=tmp_path / "enroll_map")
    if mapped:
        (tmp_path / "profiles").write_text(f"{one} {three}\n")
        write_table(tmp_path / "enroll_map", {"q": f"{three} {four}"})
        score_trials(*words, enroll_map=tmp_path / "enroll_map")
        return
    write_table(tmp_path / "enroll_map", {"p": f"{one} {two}", one: one})
    score_trials(*words, enroll_map=tmp_path / "enroll_map")
    write_table(tmp_path / "enroll_map", {"q": f"{three} {four}", one: one})  # raw: all are means
    (tmp_path / "profiles").write_text(f"q {one}\n{one} {three}\n")
    score_trials(*words, enroll_map=tmp_path / "enroll_map")


# --- AS-norm --------------------------------------------------------------------------------------


@pytest.fixture
def cohort(sides: tuple[Path, Path, Trials], tmp_path: Path) -> tuple[Path, Path]:
    """A cohort of each side, in the space of `sides`."""
    stamp = Embeddings.read(sides[0]).stamp
    x, _, _ = two_views(30, 1, first_speaker=50)
    _, y, _ = two_views(30, 1, first_speaker=50, dims=(20, 12))
    for name, view in (("enroll", x), ("runtime", y)):
        Embeddings(view.keys, view.matrix, stamp).write(tmp_path / "cohort" / name)
    return tmp_path / "cohort/enroll", tmp_path / "cohort/runtime"


def test_as_norm_takes_each_cohort_for_its_side(
    sides: tuple[Path, Path, Trials], cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    *directories, trials = sides
    words = *directories, tmp_path / "trials"
    score_trials(*words, tmp_path / "plain")
    score_trials(*words, tmp_path / "normalized", cohort=cohort, top_n=12)
    vectors = map(Embeddings.read, directories)
    of_cohort = map(Embeddings.read, cohort)
    plain = read_scores(tmp_path / "plain")[1]
    expected = as_norm(plain, *vectors, trials, *of_cohort, top_n=12)
    np.testing.assert_array_equal(read_scores(tmp_path / "normalized")[1], expected)


def test_a_cohort_that_is_too_small_or_of_another_space_is_refused(
    sides: tuple[Path, Path, Trials], cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    *directories, _ = sides
    words = *directories, tmp_path / "trials", tmp_path / "out"
    with pytest.raises(InputError, match=f"{cohort[0]}.*top_n 31 .* the 30 vectors of the cohort"):
        score_trials(*words, cohort=cohort, top_n=31)
    other = Embeddings.read(cohort[1])
    other.stamp = ModelStamp("z", "z" * 64, "align")
    other.write(cohort[1])
    with pytest.raises(InputError, match=f"{cohort[0]} is of model 'x', {cohort[1]} of 'z'"):
        score_trials(*words, cohort=cohort, top_n=12)
    with pytest.raises(InputError, match=f"y is of model 'x', {cohort[1]} of 'z'"):
        score_trials(*words, cohort=(cohort[1], cohort[1]), top_n=12)
    assert not (tmp_path / "out").exists()


def test_a_cohort_without_spread_is_named_by_its_files(
    sides: tuple[Path, Path, Trials], cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    for directory in cohort:
        same = Embeddings.read(directory)
        same.matrix[:] = same.matrix[0]
        same.write(directory)
    *directories, _ = sides
    with pytest.raises(InputError, match=f"{cohort[0]}, {cohort[1]}: .* all equal"):
        score_trials(*directories, tmp_path / "trials", tmp_path / "out", cohort=cohort, top_n=12)


@pytest.mark.parametrize(
    ("kind", "known"), [("neural", True), ("neural", False), ("procrustes", True)]
)
def test_vectors_of_one_side_and_exchanged_cohorts_are_refused_where_roles_matter(
    sides: tuple[Path, Path, Trials], tmp_path: Path, kind: str, known: bool
) -> None:
    """NESSA's ratio has its numbers in other places on each side: docs/method.md."""
    for name, speakers in {"eval": 6, "cohort": 40}.items():
        views = views_for(kind, speakers, 3)[:2]
        raw = tmp_path / "raw/x" / name, tmp_path / "raw/y" / name
        for view, directory in zip(views, raw, strict=True):
            Embeddings(view.keys, view.matrix, view.stamp if known else None).write(directory)
        map_sides(fitted(kind), *raw, None, tmp_path / name, allow_outliers=True)
    enroll, runtime = tmp_path / "eval/enroll", tmp_path / "eval/runtime"
    cohort = tmp_path / "cohort/enroll", tmp_path / "cohort/runtime"
    words: Any = tmp_path / "trials", tmp_path / "out"
    score_trials(enroll, runtime, *words, cohort=cohort, top_n=12)
    swapped = tmp_path / "raw/y/cohort", tmp_path / "raw/x/cohort"
    map_sides(fitted(kind).mirrored(), *swapped, None, tmp_path / "mirror", allow_outliers=True)
    mirrored = tmp_path / "mirror/runtime", tmp_path / "mirror/enroll"
    assert ("side" in read_json(enroll / "info.json")) == (kind == "neural")
    wrong: list[tuple[tuple[Path, Path], tuple[Path, Path] | None, str]] = [
        ((enroll, enroll), None, f"{enroll} and {enroll} are both of the enroll side"),
        ((runtime, runtime), None, f"{runtime} and {runtime} are both of the runtime side"),
        ((enroll, runtime), (cohort[0], cohort[0]), "are both of the enroll side"),
        ((enroll, runtime), cohort[::-1], f"{cohort[1]}: was mapped by .* as the other side"),
        ((enroll, runtime), mirrored, f"{mirrored[0]}: was mapped by .* as the other side"),
    ]
    for pair, others, message in wrong:
        if kind == "procrustes" and others in (None, mirrored):
            score_trials(*pair, *words, cohort=others, top_n=12)
            continue
        with pytest.raises(InputError, match=message if kind == "neural" else "the other side"):
            score_trials(*pair, *words, cohort=others, top_n=12)
    for directory in (enroll, *cohort):  # as of an earlier version
        info = read_json(directory / "info.json")
        write_json(directory / "info.json", {k: info[k] for k in info if k not in ("side", "map")})
    score_trials(enroll, enroll, *words)
    score_trials(enroll, runtime, *words, cohort=cohort[::-1], top_n=12)


# --- calibration ----------------------------------------------------------------------------------


def test_calibrated_scores_are_likelihood_ratios(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    *directories, _ = sides
    words = *directories, tmp_path / "trials"
    score_trials(*words, tmp_path / "plain")
    fitted = fit_calibration(
        tmp_path / "trials", tmp_path / "plain", tmp_path / "calibration.json", 0.5
    )
    score_trials(*words, tmp_path / "llr", calibration=tmp_path / "calibration.json")
    expected = fitted.apply(read_scores(tmp_path / "plain")[1])
    np.testing.assert_allclose(read_scores(tmp_path / "llr")[1], expected, rtol=1e-6)


def test_the_calibration_of_other_scores_is_refused(
    sides: tuple[Path, Path, Trials], cohort: tuple[Path, Path], tmp_path: Path
) -> None:
    *directories, _ = sides
    words = *directories, tmp_path / "trials", tmp_path / "out"
    normalized: Any = {"cohort": cohort, "top_n": 12}
    calibration = tmp_path / "calibration.json"
    for method, own, others in (("cosine", {}, normalized), ("as_norm", normalized, {})):
        write_json(calibration, Calibration(1.0, 0.0, method=method).to_dict())
        score_trials(*words, calibration=calibration, **own)
        with pytest.raises(InputError, match=f"{calibration}: is of scores by {method}, and one"):
            score_trials(*words, calibration=calibration, **others)
    for own, others in (({}, normalized), (normalized, {})):  # told by the scores' range
        score_trials(*words, **own)
        fit_calibration(tmp_path / "trials", tmp_path / "out", calibration, 0.5)
        score_trials(*words, calibration=calibration, **own)
        with pytest.raises(InputError, match=f"{calibration}: is of scores by "):
            score_trials(*words, calibration=calibration, **others)
    write_json(calibration, Calibration(1.0, 0.0).to_dict())  # as of an earlier version
    for options in ({}, normalized):
        score_trials(*words, calibration=calibration, **options)


def test_the_calibration_of_another_aligner_is_refused(
    sides: tuple[Path, Path, Trials], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *raw, _ = sides
    x, y, utt2spk = two_views(6, 3)
    aligner = ProcrustesAligner().fit(x, y, utt2spk)
    for name, view in (("enroll", x), ("runtime", y)):
        view.write(tmp_path / "raw" / name)
    map_sides(aligner, tmp_path / "raw/enroll", tmp_path / "raw/runtime", None, tmp_path / "mapped")
    mapped = tmp_path / "mapped/enroll", tmp_path / "mapped/runtime"
    calibration = tmp_path / "calibration.json"
    words: Any = tmp_path / "trials", tmp_path / "out"
    of_both: Any = {"pair": aligner.pair(), "method": "cosine"}
    for place in mapped:  # by an earlier version, which did not tell the map
        info = read_json(place / "info.json")
        write_json(place / "info.json", {k: v for k, v in info.items() if k != "map"})
    for own in (of_both, {"pair": "f" * 64, "space": aligner.space()}):
        assert not caplog.records
        write_json(calibration, Calibration(1.0, 0.0, **own).to_dict())
        score_trials(*mapped, *words, calibration=calibration)
        with pytest.raises(InputError, match=f"{calibration}: is of another aligner's scores"):
            score_trials(*raw, *words, calibration=calibration)
    assert f"{calibration}: is of an aligner whose one side has joined this space" in caplog.text
    for own in ({"method": "cosine"}, {"space": "f" * 64}):
        write_json(calibration, Calibration(1.0, 0.0, pair="f" * 64, **own).to_dict())
        with pytest.raises(InputError, match=f"{calibration}: is of another aligner's scores"):
            score_trials(*mapped, *words, calibration=calibration)


def test_the_calibration_of_the_opposite_update_direction_is_refused(
    sides: tuple[Path, Path, Trials], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, y, utt2spk = two_views(6, 3)
    aligner = ProcrustesAligner().fit(x, y, utt2spk)
    for name, view in (("x", x), ("y", y)):
        view.write(tmp_path / "raw" / name)
    raw = tmp_path / "raw/x", tmp_path / "raw/y"
    map_sides(aligner, *raw, None, tmp_path / "own")
    map_sides(aligner.mirrored(), *raw[::-1], None, tmp_path / "mirror")
    calibration = tmp_path / "calibration.json"
    own, mirror = ((tmp_path / n / "enroll", tmp_path / n / "runtime") for n in ("own", "mirror"))
    words: Any = tmp_path / "trials", tmp_path / "out"
    score_trials(*own, *words)
    of: Any = {"pair": aligner.pair(), "enroll": aligner.map_digest("enroll")}
    fit_calibration(tmp_path / "trials", tmp_path / "out", calibration, 0.5, **of)
    score_trials(*own, *words, calibration=calibration)
    with pytest.raises(InputError, match=f"{calibration}: is .* of the opposite update direction"):
        score_trials(*mirror, *words, calibration=calibration)
    record = read_json(calibration)
    del record["enroll"]  # of both directions, as that of a fit, or of an earlier version
    write_json(calibration, record)
    for pair in (own, mirror):
        score_trials(*pair, *words, calibration=calibration)
    assert not caplog.records


def test_the_calibration_of_raw_scores_is_refused_for_mapped_ones(
    sides: tuple[Path, Path, Trials], tmp_path: Path
) -> None:
    view, _, utt2spk = two_views(6, 3)
    calibration = tmp_path / "calibration.json"
    words: Any = tmp_path / "trials", tmp_path / "out"
    for known in ("a" * 64, f"arks:{'a' * 64}"):  # a model, and vectors that nothing names one of
        raw, mapped = tmp_path / "raw", tmp_path / "mapped"
        view.stamp = ModelStamp("x", known, "eval")
        view.write(raw)
        aligner = ProcrustesAligner().fit(view, view, utt2spk)
        map_sides(aligner, raw, raw, None, mapped)
        write_json(calibration, Calibration(1.0, 0.0, pair=known, method="cosine").to_dict())
        score_trials(raw, raw, *words, calibration=calibration)
        with pytest.raises(InputError, match=f"{calibration}: is of another aligner's scores"):
            score_trials(mapped / "enroll", mapped / "runtime", *words, calibration=calibration)
    view.stamp = ModelStamp("x", "arks:other", "eval")  # more vectors of the same model, maybe
    view.write(raw)
    score_trials(raw, raw, *words, calibration=calibration)


def test_scores_take_the_calibration_and_the_cohort_of_both_their_maps(
    sides: tuple[Path, Path, Trials], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, y, utt2spk = two_views(6, 3)
    for name, view in (("enroll", x), ("runtime", y)):
        view.write(tmp_path / "raw" / name)
    first, other = ProcrustesAligner().fit(x, y, utt2spk), ProcrustesAligner().fit(*two_views(7, 3))
    refitted = [first]
    for side in ("enroll", "runtime"):  # one after the other, beside the frozen other one
        joined = copy.deepcopy(refitted[-1])
        joined.arrays |= {k: own for k, own in other.arrays.items() if k.startswith(side)}
        joined.joined = first.space()
        refitted.append(joined)
    raw = tmp_path / "raw/enroll", tmp_path / "raw/runtime"
    for number, aligner in enumerate(refitted):
        map_sides(aligner, *raw, None, tmp_path / str(number))
    places = [tuple(tmp_path / str(n) / side for side in ("enroll", "runtime")) for n in range(3)]
    for own, cohort, stale in ((0, 1, "enroll"), (1, 0, "enroll"), (2, 1, "runtime")):
        with pytest.raises(InputError, match=f"{tmp_path}/{cohort}/{stale}: was mapped by .*anew"):
            score_trials(
                *places[own], tmp_path / "trials", tmp_path / "out", cohort=places[cohort], top_n=9
            )
    calibration = tmp_path / "calibration.json"
    words: Any = tmp_path / "trials", tmp_path / "out"
    for enroll, runtime, right in ((0, 0, 0), (0, 1, 0), (1, 0, 1), (1, 2, 2), (2, 2, 2)):
        mapped = tmp_path / f"{enroll}/enroll", tmp_path / f"{runtime}/runtime"
        for number, own in enumerate(refitted):
            space = None if number == 0 else own.space()
            of_own = Calibration(1.0, 0.0, pair=own.pair(), space=space, method="cosine")
            write_json(calibration, of_own.to_dict())
            if number == right:
                score_trials(*mapped, *words, calibration=calibration)
                continue
            with pytest.raises(InputError, match=f"{calibration}: is of another aligner's scores"):
                score_trials(*mapped, *words, calibration=calibration)
    assert not caplog.records
    apart = places[0][0], places[2][1]  # by the first and the last aligner
    score_trials(*apart, *words)
    text = f"{apart[0]}, {apart[1]}: neither of the aligners that mapped these has both maps"
    assert caplog.text.count(text) == len(caplog.records) == 1
    for place in apart:  # by an earlier version, which did not tell the pair
        info = read_json(place / "info.json")
        write_json(place / "info.json", {k: v for k, v in info.items() if k != "pair"})
        score_trials(*apart, *words)
    assert len(caplog.records) == 1


def test_a_gallery_of_both_models_has_a_calibration_without_an_aligner(
    sides: tuple[Path, Path, Trials], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    x, y, utt2spk = two_views(6, 3)
    aligner = ProcrustesAligner().fit(x, y, utt2spk)
    y.write(tmp_path / "raw")
    map_sides(aligner.mirrored(), tmp_path / "raw", None, None, tmp_path / "mapped")
    map_sides(aligner, None, tmp_path / "raw", None, tmp_path / "mapped")
    calibration = tmp_path / "calibration.json"
    mapped = tmp_path / "mapped/enroll", tmp_path / "mapped/runtime"
    words = *mapped, tmp_path / "trials", tmp_path / "out"
    write_json(calibration, Calibration(1.0, 0.0, pair=aligner.pair()).to_dict())
    with pytest.raises(InputError, match=f"{calibration}: is .* of these without --aligner"):
        score_trials(*words, calibration=calibration)
    score_trials(*words)
    fit_calibration(tmp_path / "trials", tmp_path / "out", calibration, 0.5)
    score_trials(*words, calibration=calibration)
    text = f"{calibration}: does not say which aligner's scores it is of"
    assert text not in caplog.text
    x.write(tmp_path / "x")  # the other model, whose scores have another scale
    map_sides(aligner, tmp_path / "x", None, None, tmp_path / "first")
    score_trials(tmp_path / "first/enroll", *words[1:], calibration=calibration)
    assert caplog.text.count(text) == 1


def test_a_calibration_of_before_may_be_of_an_aligner_that_joined_a_space(
    sides: tuple[Path, Path, Trials], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    *raw, _ = sides
    calibration = tmp_path / "calibration.json"
    write_json(calibration, Calibration(1.0, 0.0, pair="f" * 64).to_dict())
    score_trials(*raw, tmp_path / "trials", tmp_path / "out", calibration=calibration)
    assert f"{calibration}: is of another aligner's scores, or of an earlier" in caplog.text


@pytest.mark.parametrize(
    ("quality", "options", "message"),
    [
        ({TEST_DURATION: 1.0}, [], "log seconds of test; give --utt2dur"),
        ({ENROLL_COUNT: 1.0}, [], "log number of enrollment utterances; give --enroll-map"),
        ({}, ["utt2dur"], "fitted without durations; leave out --utt2dur"),
    ],
)
def test_a_calibration_asks_for_the_files_that_it_was_fitted_with(
    sides: tuple[Path, Path, Trials], tmp_path: Path, quality: dict, options: list, message: str
) -> None:
    *directories, trials = sides
    write_table(tmp_path / "utt2dur", dict.fromkeys(trials.test_index.names, 2.5))
    calibration = tmp_path / "calibration.json"
    write_json(calibration, Calibration(1.0, 0.0, quality).to_dict())
    files = {name: tmp_path / name for name in options}
    words = *directories, tmp_path / "trials", tmp_path / "out"
    with pytest.raises(InputError, match=f"{calibration}: .*{message}"):
        score_trials(*words, calibration=calibration, **files)
