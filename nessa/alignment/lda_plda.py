"""The back-end of one model as Kaldi's x-vector recipes have it: LDA, length norm and PLDA."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save
from scipy.linalg import eigh

from nessa.alignment.covariance import scatter_within, within_speakers
from nessa.alignment.dev import DevSet
from nessa.alignment.linear import ranks
from nessa.alignment.plda import factor_llr, trial_vectors
from nessa.alignment.table import AlignTable
from nessa.alignment.views import (
    EPSILON,
    Floats,
    Labels,
    Mapped,
    Matrix,
    Rows,
    blocks,
    length_normalize,
    mean_of,
)
from nessa.errors import InputError
from nessa.files import atomic_open
from nessa.kaldi.directions import SAFE, lengths
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import same_model
from nessa.metrics.roc import eer
from nessa.trials import Trials

LDA_DIMS = (200, 150, 100, 64, 32)  # Kaldi's recipes have 200 (voxceleb) and 150 (sre16)
EM_STEPS = 10  # as ivector-compute-plda takes
LEAST = 1e-4  # variance within speakers after LDA, relative to all; rounding leaves less
FLOOR = 1e-6  # of the within-speaker eigenvalues, relative to the largest; Kaldi's too
ARRAYS = ("mean", "lda", "plda_mean", "plda", "psi")  # of `LDAPLDA`, as a file has them


@dataclass(frozen=True)
class LDAPLDA:
    """Scores trials of one model by PLDA's likelihood ratio, after LDA and length normalization.

    What egs/voxceleb/v2 and egs/sre16/v2 of Kaldi do: an embedding, or the mean of a profile's n,
    less the mean of the align set; LDA to d dimensions; scaled to length sqrt(d); then PLDA in
    its two-covariance form, y = s + e with s ~ N(m, B) of the speaker and e ~ N(0, W) of the
    utterance (Brummer & de Villiers 2010), in the basis u of s that makes W = I and B = diag(psi).
    There u is scaled such that sum of u_i^2 / (psi_i + 1/n) = d (Garcia-Romero & Espy-Wilson
    2011; `GetNormalizationFactor` in ivector/plda.cc).

    Attributes:
        mean: of the align set, (D,).
        lda: (D, d).
        plda_mean: m, (d,).
        plda: (d, d); u = (y - m) `plda`.
        psi: speaker variances where those of utterances are 1, (d,), in falling order.
        fingerprint: of the model, None where it is unknown.
    """

    mean: Floats
    lda: Floats
    plda_mean: Floats
    plda: Floats
    psi: Floats
    fingerprint: str | None = None

    @classmethod
    def fit(cls, table: AlignTable, dev: DevSet, dims: Sequence[int] = LDA_DIMS) -> Self:
        """Fit to the align set of one model, which is on both sides of `table` and of `dev`.

        Args:
            table: N utterances of S speakers; those of its enrollment side are used.
            dev: held-out speakers; the mean EER of their lists chooses among `dims`.
            dims: d, of which those above min(D, S - 1) mean that.

        Raises:
            InputError: no speaker has two utterances, embeddings that are too long or too short,
                or the dev set is of another model.
        """
        view, labels = table.enroll, table.labels
        longest = max(float(lengths(view[rows]).max()) for rows in blocks(len(view)))
        if longest and not SAFE[0] <= longest <= SAFE[1]:
            raise InputError(
                f"align embeddings have lengths up to {longest:.0e}; LDA and PLDA take them up to "
                f"{SAFE[1]:.0e}, and from {SAFE[0]:.0e} on: divide all by one number"
            )
        mean = mean_of(view)
        directions = _lda(Mapped(view, lambda rows: rows - mean.astype(np.float32)), labels)
        best: tuple[float, Self] | None = None
        for dim in ranks(directions.shape[1], dims):
            lda = directions[:, :dim]
            normalized = Mapped(view, partial(_project, mean=mean, lda=lda))
            plda = _diagonalize(*_two_covariances(normalized, labels))
            model = cls(mean, lda, *plda, table.fingerprints[0])
            errors = [eer(model.scores(dev.enroll, t), t.known_labels) for t in dev.lists]
            error = float(np.mean(errors))
            if best is None or error < best[0]:
                best = error, model
        assert best is not None
        return best[1]

    def latent(self, matrix: npt.ArrayLike, counts: npt.NDArray[np.int64]) -> Floats:
        """u of raw embeddings or means of some: (N, D), counts of utterances (N,) -> (N, d)."""
        y = _project(np.asarray(matrix, np.float64), self.mean, self.lda)
        u = (y - self.plda_mean) @ self.plda
        power = (u**2 / (self.psi + 1 / counts[:, None])).mean(axis=1, keepdims=True)
        return u / np.sqrt(np.maximum(power, EPSILON))

    def scores(
        self,
        embeddings: Embeddings,
        trials: Trials,
        enroll_map: Mapping[str, Sequence[str]] | None = None,
    ) -> Floats:
        """The log likelihood ratio of each trial: one speaker against two.

        Args:
            embeddings: raw, of all utterances, (N, D).
            trials: T trials.
            enroll_map: {profile: utterances} of the profiles that the trials name.

        Returns:
            (T,), natural logarithm, in trial order.

        Raises:
            InputError: a trial names what has no embedding, or the embeddings are of another
                model or dimension.
        """
        self._check(embeddings)
        profiles, counts, tests, pairs = trial_vectors(embeddings, embeddings, trials, enroll_map)
        singles = np.ones(len(tests), np.int64)
        # With u = psi^1/2 h + e, the prior of h is N(0, I) also where psi is 0.
        scale, precision = np.sqrt(self.psi), np.diag(self.psi)
        enroll, test = self.latent(profiles, counts) * scale, self.latent(tests, singles) * scale
        identity = np.eye(len(scale))
        return factor_llr((enroll, precision), counts, (test, precision), pairs, identity)

    def _check(self, embeddings: Embeddings) -> None:
        stamp, dim = embeddings.stamp, embeddings.matrix.shape[1]
        if stamp and same_model(stamp, self.fingerprint) is False:
            raise InputError(
                f"embeddings are of model {stamp.model!r} ({stamp.fingerprint[:12]}), but the "
                f"back-end was fitted on model {str(self.fingerprint)[:12]}; fit it again"
            )
        if dim != len(self.mean):
            raise InputError(
                f"embeddings have dimension {dim}, but the back-end takes {len(self.mean)}; "
                "fit it again"
            )

    def save(self, path: Path) -> None:
        """Write a safetensors file with the arrays, and the fingerprint as metadata."""
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        with atomic_open(path, "wb") as file:
            file.write(save(arrays, {"fingerprint": self.fingerprint or ""}))

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`.

        Raises:
            InputError: there is none, or it cannot be read.
        """
        if not path.is_file():
            raise InputError(f"{path}: no such file; run ./run.sh --stage symmetric")
        try:
            arrays: dict[str, Any] = load_file(path)
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        dim, reduced = (np.size(arrays.get(name, ())) for name in ("mean", "psi"))
        shapes = (dim,), (dim, reduced), (reduced,), (reduced, reduced), (reduced,)
        if {name: a.shape for name, a in arrays.items()} != dict(zip(ARRAYS, shapes, strict=True)):
            raise InputError(f"{path}: not a back-end of LDA and PLDA; fit it again")
        return cls(**arrays, fingerprint=metadata.get("fingerprint") or None)


def _project(rows: npt.NDArray[np.floating], mean: Floats, lda: Floats) -> Matrix:
    """LDA and length normalization: (N, D) -> (N, d), of length sqrt(d)."""
    reduced = ((rows - mean) @ lda).astype(np.float32)
    return length_normalize(reduced) * np.float32(np.sqrt(lda.shape[1]))


def _lda(centered: Rows, labels: Labels) -> Floats:
    """Directions (D, d) in falling order of between- over within-speaker variance, d < S.

    As ivector-compute-lda with total-covariance-factor 0 finds them.
    """
    scatter, means, counts = within_speakers(centered, labels)
    values, vectors = eigh(scatter)
    root = vectors / np.sqrt(np.maximum(values, FLOOR * values[-1]))
    between = (means * counts[:, None]).T @ means
    order = eigh(root.T @ between @ root)[1][:, ::-1]
    return root @ order[:, : len(means) - 1]


def _two_covariances(y: Rows, labels: Labels) -> tuple[Floats, Floats, Floats]:
    """m (d,), B and W (d, d) by expectation maximization, started from B = W = I.

    The E-step of a speaker with mean y of n utterances: s - m is Gaussian with the covariance
    C = (B^-1 + n W^-1)^-1 and the mean n C W^-1 (y - m). Speakers count alike in B. See
    `PldaEstimator` in Kaldi's ivector/plda.cc.
    """
    scatter, means, counts = scatter_within(y, labels)
    # Fewer utterances than dimensions leave directions in which LDA finds no variance.
    scatter += LEAST * len(labels) * np.eye(len(scatter))
    mean = means.mean(axis=0)
    means -= mean
    between = within = np.eye(len(mean))
    for _ in range(EM_STEPS):
        prior, noise = np.linalg.inv(between), np.linalg.inv(within)
        speakers, utterances = np.zeros_like(between), scatter.copy()
        for n in np.unique(counts):
            own = means[counts == n]
            covariance = np.linalg.inv(prior + n * noise)
            expected = own @ (n * noise @ covariance)
            rest = own - expected
            speakers += len(own) * covariance + expected.T @ expected
            utterances += n * (len(own) * covariance + rest.T @ rest)
        between, within = speakers / len(means), utterances / len(labels)
    return mean, between, within


def _diagonalize(mean: Floats, between: Floats, within: Floats) -> tuple[Floats, Floats, Floats]:
    """m, the basis (d, d) in which W is I and B is diagonal, and the diagonal psi (d,) of B."""
    psi, basis = eigh(between, within)
    return mean, basis[:, ::-1], np.maximum(psi[::-1], 0)
