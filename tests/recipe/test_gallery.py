"""Mixed galleries: their ends are the cells of the update protocol, their middle lies between."""

from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import AlignTable, NeuralAligner, load
from nessa.errors import InputError
from nessa.files import write_table
from nessa.kaldi.datadir import GIVEN_MAP
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.recipe.config import Recipe
from nessa.recipe.gallery import SHARES, mixed_gallery
from nessa.report.gallery import gallery_plot
from nessa.report.spaces import spaces_plot
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.aligners import small
from tests.alignment.test_domains import of_two_domains, within
from tests.pairs import all_trials, two_views

ENCODER = {"architecture": "tdnn", "channels": 8, "dim": 8, "steps": 1, "loss": {"type": "aam"}}


@pytest.fixture
def recipe() -> Recipe:
    settings = {
        "name": "toy",
        "corpus": {"program": "mini"},
        "prepare": {"program": "voxceleb"},
        "encoders": {"x": ENCODER, "y": ENCODER},
        "update": ("x", "y"),
    }
    return Recipe.model_validate(settings)


@pytest.fixture
def exp(tmp_path: Path) -> Path:
    """An aligner y-x, and eval embeddings and trials beside it."""
    x, y, speakers = two_views(100, 5, noise=(1.5, 0.7))
    settings = {"dim": 16, "hidden_dim": 32, "steps": 100, "speakers_per_batch": 64}
    aligner = NeuralAligner(**settings).fit(y, x, speakers)
    aligner.save(tmp_path / "aligners/nessa/y-x")
    for name, first in (("dev", 5000), ("eval", 7000)):
        x, y, speakers = two_views(30, 3, first_speaker=first, noise=(1.5, 0.7))
        x.write(tmp_path / f"embeddings/x/{name}")
        y.write(tmp_path / f"embeddings/y/{name}")
        all_trials(speakers).write(tmp_path / f"{name}/trials")
    return tmp_path


@pytest.mark.slow
def test_the_ends_are_the_cells_and_the_middle_lies_between(recipe: Recipe, exp: Path) -> None:
    records = mixed_gallery(recipe, exp, exp / "eval")
    assert records == mixed_gallery(recipe, exp, exp / "eval"), "seeded"
    x, y, speakers = two_views(30, 3, first_speaker=7000, noise=(1.5, 0.7))
    trials = all_trials(speakers)
    aligner = NeuralAligner(dim=16, hidden_dim=32, steps=100, speakers_per_batch=64).fit(
        *[two_views(100, 5, noise=(1.5, 0.7))[k] for k in (1, 0)],  # type: ignore[arg-type]
        two_views(100, 5)[2],
    )
    mirror = aligner.mirrored()
    profiles = {"x": mirror.map_enroll(x.matrix), "y": aligner.map_enroll(y.matrix)}
    tests = {"x": aligner.map_runtime(x.matrix), "y": mirror.map_runtime(y.matrix)}

    def error(enroll: str, runtime: str) -> float:
        sides = Embeddings(x.keys, profiles[enroll]), Embeddings(x.keys, tests[runtime])
        return eer(cosine_scores(*sides, trials), trials.labels)

    assert trials.labels is not None
    for runtime in ("x", "y"):
        curve = [r["eer"] for r in records if r["runtime"] == runtime]
        ends = [error(model, runtime) for model in "yx"]
        assert curve[0] == pytest.approx(ends[0]) and curve[-1] == pytest.approx(ends[1])
        assert min(ends) - 0.03 <= min(curve) and max(curve) <= max(ends) + 0.03
    assert [r["old_share"] for r in records[: len(SHARES)]] == pytest.approx(list(SHARES))


@pytest.mark.slow
def test_profiles_of_given_trials_are_averaged_before_they_are_mapped(
    recipe: Recipe, exp: Path
) -> None:
    """Profiles of one utterance each, under other names, change nothing."""
    plain = mixed_gallery(recipe, exp, exp / "eval")
    trials = Trials.read(exp / "eval/trials")
    names = {name: f"profile-of-{name}" for name in trials.enroll_index.names}
    renamed = Trials([names[e] for e in trials.enroll], trials.test, trials.labels)
    renamed.write(exp / "eval/trials")
    write_table(exp / "eval" / GIVEN_MAP, {profile: utt for utt, profile in names.items()})
    assert mixed_gallery(recipe, exp, exp / "eval") == plain


@pytest.fixture
def of_domains(tmp_path: Path) -> Path:
    """Procrustes in NESSA's place as aligner y-x, and sets of two domains that lie apart."""
    (x, y, names), domains = of_two_domains(120)
    small("procrustes").fit_table(AlignTable.of(y, x, names).with_domains(domains)).save(
        tmp_path / "aligners/nessa/y-x"
    )
    for name, first in (("dev", 5000), ("eval", 7000)):
        (x, y, names), domains = of_two_domains(12, first_speaker=first)
        x.write(tmp_path / f"embeddings/x/{name}")
        y.write(tmp_path / f"embeddings/y/{name}")
        within(names, domains).write(tmp_path / f"{name}/trials")
        write_table(tmp_path / f"{name}/utt2spk", names)
        write_table(tmp_path / f"{name}/utt2domain", domains)
    return tmp_path


def test_domains_are_centered_of_utterances_and_of_profiles(
    recipe: Recipe, of_domains: Path
) -> None:
    exp, aligner = of_domains, load(of_domains / "aligners/nessa/y-x")
    (x, y, _), own = of_two_domains(12, first_speaker=7000)
    trials = Trials.read(exp / "eval/trials")
    sides = aligner.center_domains(y, "enroll", own), aligner.center_domains(x, "runtime", own)
    of_pair = eer(cosine_scores(*aligner.map_views(*sides), trials), trials.labels)
    found = mixed_gallery(recipe, exp, exp / "eval")
    at_new = {r["runtime"]: r["eer"] for r in found if r["old_share"] == 0}
    assert at_new["x"] == pytest.approx(of_pair)

    names = {name: f"profile-of-{name}" for name in trials.enroll_index.names}
    renamed = Trials([names[e] for e in trials.enroll], trials.test, trials.labels)
    renamed.write(exp / "eval/trials")
    write_table(exp / "eval" / GIVEN_MAP, {profile: utt for utt, profile in names.items()})
    assert mixed_gallery(recipe, exp, exp / "eval") == found


def test_dev_sets_the_scores_of_both_pairs_of_models_against_each_other(
    recipe: Recipe, of_domains: Path
) -> None:
    """Other dev embeddings change the middle of a gallery, and its ends, of one pair, never."""
    before = mixed_gallery(recipe, of_domains, of_domains / "eval")
    dev = of_domains / "embeddings/x/dev"
    (x, _, _), _ = of_two_domains(12, first_speaker=5000)
    Embeddings(x.keys, x.matrix + 2, x.stamp).write(dev)
    after = mixed_gallery(recipe, of_domains, of_domains / "eval")
    at_ends = [r["old_share"] in (0, 1) for r in before]
    same = [a["eer"] == b["eer"] for a, b in zip(before, after, strict=True)]
    assert all(own for own, end in zip(same, at_ends, strict=True) if end)
    assert not all(same)


def test_the_shared_space_is_drawn_with_domains_centered(recipe: Recipe, of_domains: Path) -> None:
    """As embeddings that were centered before."""
    exp, aligner = of_domains, load(of_domains / "aligners/nessa/y-x")

    def shared() -> list[np.ndarray]:
        plot = spaces_plot(recipe, exp, exp / "eval")
        axes = plot.figure.axes[2]
        assert plot.alt.startswith("Embeddings of 8 eval speakers")
        return [np.asarray(points.get_offsets()) for points in axes.collections]

    drawn = shared()
    (x, y, _), own = of_two_domains(12, first_speaker=7000)
    aligner.center_domains(x, "runtime", own).write(exp / "embeddings/x/eval")
    aligner.center_domains(y, "enroll", own).write(exp / "embeddings/y/eval")
    (exp / "eval/utt2domain").unlink()
    np.testing.assert_allclose(drawn, shared(), atol=1e-5)


@pytest.mark.slow
def test_the_curve_is_drawn_alike_twice(tmp_path: Path) -> None:
    records = [
        {"runtime": runtime, "old_share": float(share), "eer": 0.02 + 0.03 * float(share)}
        for runtime in ("old", "new")
        for share in np.linspace(0, 1, 3)
    ]
    first = [path.read_bytes() for path in gallery_plot(records).save(tmp_path / "a")]
    second = [path.read_bytes() for path in gallery_plot(records).save(tmp_path / "b")]
    assert first == second and first[0].startswith(b"\x89PNG") and b"<svg" in first[1]


def test_a_missing_aligner_is_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no aligner here"):
        mixed_gallery(recipe, tmp_path, tmp_path / "eval")
