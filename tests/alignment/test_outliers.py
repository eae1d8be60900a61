"""Outlier detectors: which embeddings are unlike those that an aligner was fitted on."""

import os
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance

from nessa.alignment import NeuralAligner
from nessa.alignment.outliers import OutlierDetector, Outliers
from nessa.kaldi.embeddings import Embeddings
from tests.pairs import two_views

SMALL = {"steps": 2, "dim": 8, "hidden_dim": 4, "speakers_per_batch": 8}


def views(first_speaker: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of 400 speakers by the enrollment model, and the speakers of the rows."""
    enroll, _, _ = two_views(400, 5, first_speaker=first_speaker, noise=(0.1, 0.1))
    return enroll.matrix, np.repeat(np.arange(400), 5)


def test_other_speakers_are_inside_and_another_model_is_not() -> None:
    matrix, labels = views()
    detector = OutlierDetector.fit(matrix, labels)
    others = detector.distances(views(1000)[0])
    assert (others > 1).mean() < 0.02  # some speakers of 400; one in a thousand expected
    assert (detector.distances(np.roll(matrix, 3, axis=1)) > 1).mean() > 0.6


def test_it_is_mahalanobis_distance_as_scipy_computes_it() -> None:
    matrix, labels = views()
    detector = OutlierDetector.fit(matrix, labels)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    half, other = unit[labels % 2 == 0], unit[labels % 2 == 1]
    covariance = EmpiricalCovariance().fit(half).covariance_
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 12 * np.eye(12)
    inverse, mean = np.linalg.inv(shrunk), half.mean(axis=0)[None]
    limit = np.quantile(cdist(other, mean, "mahalanobis", VI=inverse), 0.999)
    expected = cdist(unit, mean, "mahalanobis", VI=inverse).ravel() / limit
    np.testing.assert_allclose(detector.distances(matrix), expected, rtol=1e-3)


def test_length_does_not_count() -> None:
    matrix, labels = views()
    detector = OutlierDetector.fit(matrix, labels)
    np.testing.assert_allclose(
        detector.distances(100 * matrix), detector.distances(matrix), rtol=1e-4
    )


def test_a_frozen_side_keeps_its_own() -> None:
    x, y, speakers = two_views(40, 2)
    aligner = NeuralAligner(**SMALL).fit(x, y, speakers)
    before = aligner.detectors["enroll"], aligner.detectors["runtime"]
    noisy = Embeddings(y.keys, np.roll(y.matrix, 3, axis=1))
    aligner.fit(x, noisy, speakers, freeze="enroll")
    assert (
        aligner.detectors["enroll"] is before[0] and aligner.detectors["runtime"] is not before[1]
    )


def test_two_speakers_are_enough_and_one_vector_alone_is_unlike_nothing() -> None:
    same = np.ones((4, 3), np.float32)
    assert np.isfinite(OutlierDetector.fit(same, np.array([0, 0, 1, 1])).distances(same)).all()
    assert OutlierDetector.fit(same, np.array([0, 0, 1, 1])).distances(same[:0]).shape == (0,)


def test_the_list_that_a_killed_run_was_writing_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [".l1.csv.k1ll3d__.tmp", ".runtime.csv.k1ll3d__.tmp", "l[1].csv"]
    for name in [*kept[:2], ".l[1].csv.k1ll3d__.tmp"]:
        (tmp_path / name).touch()
    Outliers(OutlierDetector.fit(*views())).write(tmp_path / "l[1].csv")
    assert sorted(os.listdir(tmp_path)) == kept
    (tmp_path / ".l[1].csv.k1ll3d__.tmp").touch()
    Outliers().write(tmp_path / "l[1].csv")  # of an aligner of an older version, without a list
    assert sorted(os.listdir(tmp_path)) == kept[:2]
