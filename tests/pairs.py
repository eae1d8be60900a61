"""Paired embeddings of known origin: one latent speaker factor, seen through two models."""

from pathlib import Path

import numpy as np

from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.recipe.layout import AS_NORM, COSINE, score_file
from nessa.recipe.systems import System, has_as_norm
from nessa.trials import Trials, write_scores


def two_views(
    speakers: int,
    utterances: int,
    first_speaker: int = 0,
    factor: int = 8,
    dims: tuple[int, int] = (12, 20),
    noise: tuple[float, float] = (0.6, 0.3),
) -> tuple[Embeddings, Embeddings, dict[str, str]]:
    """Embeddings by an enrollment and a runtime model, and {utterance: speaker}.

    x = A h + noise, y = B h + noise: h belongs to the speaker, A and B to the models.
    """
    models = np.random.default_rng(11)
    maps = [models.standard_normal((factor, d)) / np.sqrt(factor) for d in dims]
    rng = np.random.default_rng((12, first_speaker))
    h = rng.standard_normal((speakers, factor)).repeat(utterances, axis=0)
    names = [f"id{first_speaker + s:05d}" for s in range(speakers)]
    keys = [f"{name}-s0-{u:05d}" for name in names for u in range(utterances)]
    views = []
    for model, matrix, level in zip(("x", "y"), maps, noise, strict=True):
        clean = h @ matrix + 0.5  # an offset, as real embeddings have one
        noisy = clean + level * rng.standard_normal(clean.shape)
        stamp = ModelStamp(model, model * 64, "align")
        views.append(Embeddings(keys, noisy.astype(np.float32), stamp))
    return views[0], views[1], {key: key.split("-")[0] for key in keys}


def all_trials(speakers: dict[str, str]) -> Trials:
    """Every ordered pair of different utterances."""
    keys = list(speakers)
    pairs = [(a, b) for a in keys for b in keys if a != b]
    labels = [speakers[a] == speakers[b] for a, b in pairs]
    return Trials([a for a, _ in pairs], [b for _, b in pairs], np.array(labels))


def write_system(
    scores_dir: Path, system: System, list_name: str, trials: Trials, scores: np.ndarray
) -> None:
    """Eval score files of a system: cosine s, AS-norm tanh s, LLRs three times these less 1."""
    kinds = {COSINE: scores, AS_NORM: np.tanh(scores)} if has_as_norm(system) else {COSINE: scores}
    for kind, values in kinds.items():
        place = scores_dir, system, list_name
        write_scores(score_file(*place, kind=kind), trials, values)
        write_scores(score_file(*place, kind=kind, calibrated=True), trials, 3 * values - 1)


def drawn_trials(speakers: int, utterances: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row pairs (T, 2) of different utterances, a tenth of them targets, and labels."""
    rng = np.random.default_rng(4)
    first = rng.integers(speakers * utterances, size=count)
    second = rng.integers(speakers * utterances, size=count)
    further = rng.integers(1, utterances, size=count)
    own = first // utterances * utterances + (first + further) % utterances
    second = np.where(np.arange(count) % 10 == 0, own, second)
    different = first != second
    pairs = np.stack([first, second], axis=1)[different]
    return pairs, pairs[:, 0] // utterances == pairs[:, 1] // utterances


def as_trials(keys: list[str], pairs: np.ndarray, labels: np.ndarray) -> Trials:
    """Trials of the row pairs (T, 2) that `drawn_trials` gave."""
    return Trials(*([keys[row] for row in side] for side in pairs.T), labels)
