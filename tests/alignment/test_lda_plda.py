"""LDA and PLDA of one model: the ratio against dense Gaussians, the fit against closed forms."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.linalg import eigh
from scipy.stats import multivariate_normal, spearmanr

from nessa.alignment import AlignTable, DevSet
from nessa.alignment.lda_plda import LDAPLDA
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.pairs import all_trials, two_views

pytestmark = pytest.mark.usefixtures("one_thread")


def dev_set(side: int = 0) -> DevSet:
    *views, names = two_views(15, 3, first_speaker=5000)
    return DevSet(views[side], views[side], all_trials(names))


def align_table(speakers: int = 200, utterances: int = 5) -> AlignTable:
    """Of the model x on both sides, 12 dimensions."""
    x, _, names = two_views(speakers, utterances)
    return AlignTable.of(x, x, names)


@cache
def fitted() -> LDAPLDA:
    return LDAPLDA.fit(align_table(), dev_set(), [8])


@pytest.mark.parametrize("size", [1, 3])
def test_the_score_is_the_likelihood_ratio_of_dense_gaussians(size: int) -> None:
    model = fitted()
    x, _, names = two_views(4, size + 1, first_speaker=700)
    members = {f"p{s}": x.keys[s * (size + 1) : (s + 1) * (size + 1) - 1] for s in range(4)}
    tests = x.keys[size :: size + 1]
    trials = Trials([p for p in members for _ in tests], tests * 4)
    scores = model.scores(x, trials, members)

    back = np.linalg.inv(model.plda)
    between, within = back.T * model.psi @ back, back.T @ back
    joint = np.block([[between + within / size, between], [between, between + within]])
    means = np.stack([x.select(own).matrix.mean(axis=0) for own in members.values()])
    sides = [
        model.latent(matrix, np.full(4, n)) @ back
        for matrix, n in ((means, size), (x.select(tests).matrix, 1))
    ]
    zero = np.zeros(8)
    same = multivariate_normal(np.zeros(16), joint)
    alone = multivariate_normal(zero, joint[:8, :8]), multivariate_normal(zero, joint[8:, 8:])
    expected = [
        same.logpdf(np.concatenate([a, b])) - alone[0].logpdf(a) - alone[1].logpdf(b)
        for a in sides[0]
        for b in sides[1]
    ]
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-6)
    assert len(set(names.values())) == 4


def test_embeddings_are_scaled_as_kaldi_does() -> None:
    """To length sqrt(d) after LDA, and to the expected length of n utterances after PLDA."""
    model = fitted()
    x, _, _ = two_views(10, 1, first_speaker=700)
    counts = np.arange(1, 11)
    u = model.latent(x.matrix, counts)
    y = (x.matrix - model.mean) @ model.lda
    y *= np.sqrt(8) / np.linalg.norm(y, axis=1, keepdims=True)
    plain = (y - model.plda_mean) @ model.plda
    scale = np.sqrt(8 / np.sum(plain**2 / (model.psi + 1 / counts[:, None]), axis=1))
    np.testing.assert_allclose(u, plain * scale[:, None], rtol=1e-4)


def test_the_fit_is_that_of_moments_where_speakers_have_as_many_utterances() -> None:
    """LDA of generalized eigenvectors, and the closed form of balanced two-covariance PLDA."""
    model = fitted()
    table = align_table()
    x, labels = np.asarray(table.enroll, np.float64), table.labels
    np.testing.assert_allclose(model.mean, x.mean(axis=0), rtol=1e-5)

    def moments(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means = np.stack([z[labels == s].mean(axis=0) for s in range(200)])
        return np.cov(means.T), (z - means[labels]).T @ (z - means[labels]) / (len(z) - 200)

    _, vectors = eigh(*moments(x))
    overlap = np.linalg.lstsq(vectors[:, -8:], model.lda, rcond=None)
    assert np.max(overlap[1] / np.sum(model.lda**2, axis=0)) < 1e-6
    y = (x - model.mean) @ model.lda
    y *= np.sqrt(8) / np.linalg.norm(y, axis=1, keepdims=True)
    of_means, within = moments(y)
    psi, basis = eigh(of_means - within / 5, within)
    np.testing.assert_allclose(model.psi, psi[::-1], rtol=0.05)
    closed = replace(model, plda_mean=y.mean(axis=0), plda=basis[:, ::-1], psi=psi[::-1])
    embeddings, _, names = two_views(20, 3, first_speaker=900)
    trials = all_trials(names)
    ours, theirs = (one.scores(embeddings, trials) for one in (model, closed))
    assert spearmanr(ours, theirs).statistic > 0.999


def test_unequal_speakers_are_fitted_by_expectation_maximization() -> None:
    x, _, names = two_views(300, 6)
    kept = [key for key in x.keys if int(key[-5:]) <= int(names[key][2:]) % 6]
    view = x.select(kept)
    model = LDAPLDA.fit(AlignTable.of(view, view, names), dev_set(), [8])
    embeddings, _, speakers = two_views(60, 3, first_speaker=900)
    trials = all_trials(speakers)
    error = eer(model.scores(embeddings, trials), trials.labels)
    assert error < 0.85 * eer(cosine_scores(embeddings, embeddings, trials), trials.labels)
    assert error < 1.05 * eer(fitted().scores(embeddings, trials), trials.labels)


def test_the_dimension_is_chosen_on_dev_below_the_number_of_speakers() -> None:
    dev = dev_set()
    table = align_table()
    models = [LDAPLDA.fit(table, dev, [d]) for d in (12, 8, 2)]
    errors = [eer(m.scores(dev.enroll, dev.trials), dev.trials.labels) for m in models]
    chosen = LDAPLDA.fit(table, dev, [200, 12, 8, 2])
    assert chosen.lda.shape[1] == (12, 8, 2)[int(np.argmin(errors))]
    # A further list counts as much: of the non-targets by which 12 dimensions err more than 8.
    scores, labels = [m.scores(dev.enroll, dev.trials) for m in models], dev.trials.labels
    assert labels is not None
    gap = scores[0] - scores[1]
    kept = np.flatnonzero(labels | (gap > np.quantile(gap[~labels], 0.9)))
    ids = ([side[row] for row in kept] for side in (dev.trials.enroll, dev.trials.test))
    hard = Trials(*ids, labels[kept])
    errors += np.array([eer(m.scores(dev.enroll, hard), hard.labels) for m in models])
    again = LDAPLDA.fit(table, replace(dev, others=(hard,)), [200, 12, 8, 2])
    assert again.lda.shape[1] == (12, 8, 2)[int(np.argmin(errors))] != chosen.lda.shape[1]
    assert LDAPLDA.fit(align_table(speakers=5), dev).lda.shape == (12, 4)


def test_it_scores_alike_when_saved(tmp_path: Path) -> None:
    model, path = fitted(), tmp_path / "x.safetensors"
    model.save(path)
    again = LDAPLDA.load(path)
    assert again.fingerprint == model.fingerprint == "x" * 64
    dev = dev_set()
    scores = model.scores(dev.enroll, dev.trials)
    np.testing.assert_array_equal(again.scores(dev.enroll, dev.trials), scores)
    model.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    unstamped = replace(model, fingerprint=None)
    unstamped.save(path)
    assert LDAPLDA.load(path).fingerprint is None


def test_embeddings_of_another_model_or_dimension_are_refused() -> None:
    x, y, names = two_views(3, 2)
    trials = all_trials(names)
    with pytest.raises(InputError, match=r"of model 'y' .* fitted on model xxxxxxxxxxxx"):
        fitted().scores(y, trials)
    with pytest.raises(InputError, match="dimension 20, but the back-end takes 12"):
        fitted().scores(Embeddings(y.keys, y.matrix), trials)
    with pytest.raises(InputError, match="of model 'y'"):
        LDAPLDA.fit(align_table(), dev_set(side=1))
    with pytest.raises(InputError, match="nobody"):
        fitted().scores(x, Trials(["nobody"], x.keys[:1]))


def test_speakers_with_one_utterance_each_are_refused() -> None:
    with pytest.raises(InputError, match="no align speaker has two utterances"):
        LDAPLDA.fit(align_table(utterances=1), dev_set())


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(InputError, match=r"x.safetensors: no such file; run .* --stage symmetric"):
        LDAPLDA.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"x.safetensors: cannot be read"):
        LDAPLDA.load(path)
    arrays = {name: getattr(fitted(), name) for name in ("mean", "lda", "plda_mean", "plda", "psi")}
    for wrong in ({"mean": arrays["mean"]}, arrays | {"lda": arrays["lda"].T.copy()},
                  arrays | {"psi": np.array(1.0)}):  # fmt: skip
        save_file(wrong, path)
        with pytest.raises(InputError, match=r"x.safetensors: not a back-end"):
            LDAPLDA.load(path)


@pytest.mark.parametrize("size", [(16, 8), (48, 8), (10, 3), (200, 2)])
def test_fewer_utterances_than_dimensions_are_enough(size: tuple[int, int]) -> None:
    """LDA then finds directions in which the utterances of a speaker do not differ at all."""
    rng = np.random.default_rng(0)

    def drawn(speakers: int, utterances: int, name: str) -> tuple[Embeddings, dict[str, str]]:
        keys = [f"{name}{s}-{u}" for s in range(speakers) for u in range(utterances)]
        means = rng.standard_normal((speakers, 512)).repeat(utterances, axis=0)
        matrix = (means + rng.standard_normal((len(keys), 512))).astype(np.float32)
        return Embeddings(keys, matrix), {key: key.partition("-")[0] for key in keys}

    align, names = drawn(*size, "a")
    dev, dev_names = drawn(20, 3, "d")
    held_out = DevSet(dev, dev, all_trials(dev_names))
    model = LDAPLDA.fit(AlignTable.of(align, align, names), held_out)
    scores = model.scores(dev, held_out.trials)
    assert np.isfinite(scores).all()
    assert eer(scores, held_out.trials.labels) < 0.3


@pytest.mark.parametrize("scale", [1e-24, 1e18, 1e30])
def test_embeddings_whose_squares_are_no_numbers_are_refused(scale: float) -> None:
    x, _, names = two_views(20, 3)
    scaled = Embeddings(x.keys, x.matrix * np.float32(scale))
    with pytest.raises(InputError, match=r"lengths up to \de[+-]\d+; .* by one number"):
        LDAPLDA.fit(AlignTable.of(scaled, scaled, names), dev_set())
