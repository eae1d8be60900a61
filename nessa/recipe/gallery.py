"""EER of a mixed gallery: stored profiles of both models while they move to the new one."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nessa.alignment.base import Aligner
from nessa.alignment.domains import DomainOf
from nessa.alignment.store import load
from nessa.errors import about
from nessa.files import Record
from nessa.kaldi.datadir import MAIN_LIST, map_of_list, read_optional
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.production.mapping import with_profiles
from nessa.recipe.config import Recipe
from nessa.recipe.layout import DEV, aligner_dir, embeddings_dir
from nessa.recipe.systems import NESSA, System
from nessa.scoring.calibration import Calibration
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.sides import enrolled_means
from nessa.trials import Trials, read_enroll_map, read_labeled

SHARES = np.linspace(0, 1, 11)  # of the profiles that are still the old model's
DRAWS = 5  # random choices of those profiles; their mean EER is reported


def mixed_gallery(recipe: Recipe, exp: Path, set_dir: Path) -> list[Record]:
    """EER as a share of the profiles moves from the old model to the new one.

    The profiles of both models lie in NESSA's shared space; the test utterances come from one
    runtime model. A gallery compares scores of two pairs of models, a model with itself and with
    the other: each is calibrated on dev by an affine map of its own.

    Args:
        recipe: names the old and the new model.
        exp: holds embeddings/ and aligners/.
        set_dir: data directory of the eval set, with trials; dev's lies beside it.

    Returns:
        A record per runtime model and share: {"runtime", "old_share", "eer"}.

    Raises:
        InputError: embeddings, trials or the aligner are missing.
    """
    old, new = recipe.update
    aligner = load(aligner_dir(exp, System(NESSA, new, old)))
    dev, dev_scores = _scores(aligner, recipe, exp, set_dir.with_name(DEV))
    trials, scores = _scores(aligner, recipe, exp, set_dir)
    p_target = recipe.scoring.p_target
    for pair, found in dev_scores.items():
        fitted = Calibration.fit(found, dev.known_labels, p_target=p_target)
        scores[pair] = fitted.apply(scores[pair])
    records = []
    for runtime in recipe.update:
        of_old, of_new = scores[old, runtime], scores[new, runtime]
        for share in map(float, SHARES):
            error = _mixed_eer(of_old, of_new, trials, share, recipe.evaluation.seed)
            records.append({"runtime": runtime, "old_share": share, "eer": error})
    return records


def _scores(
    aligner: Aligner, recipe: Recipe, exp: Path, set_dir: Path
) -> tuple[Trials, dict[tuple[str, str], NDArray[np.floating]]]:
    """A set's trials, and their scores by each (enrollment model, runtime model) in the space."""
    old, new = recipe.update
    trials = read_labeled(set_dir / MAIN_LIST)
    raw = {m: Embeddings.read(embeddings_dir(exp, m, set_dir.name)) for m in (new, old)}
    aligner.check_models(raw[new], raw[old])
    domains: Mapping[str, DomainOf] = read_optional(set_dir, "utt2domain")
    enrolled, enroll_map = raw, map_of_list(set_dir / MAIN_LIST, trials.enroll_index.names)
    if enroll_map is not None:
        own = read_enroll_map(enroll_map)
        domains = with_profiles(domains, own)
        with about(enroll_map):
            enrolled = {
                model: enrolled_means(raw[model], own, trials.enroll_index.names) for model in raw
            }
    profiles, tests = {}, {}
    for one, (enroll, runtime) in ((aligner, (new, old)), (aligner.mirrored(), (old, new))):
        sides = enrolled[enroll], raw[runtime]
        profiles[enroll], tests[runtime] = one.map_views(*sides, domains)
    return trials, {(e, r): cosine_scores(profiles[e], tests[r], trials) for e in raw for r in raw}


def _mixed_eer(old: np.ndarray, new: np.ndarray, trials: Trials, share: float, seed: int) -> float:
    """Mean EER over draws of which enrollment ids are the old model's."""
    ids = trials.enroll_index
    errors = []
    for draw in range(DRAWS):
        order = np.random.default_rng((seed, draw)).permutation(len(ids.names))
        is_old = order < round(share * len(ids.names))
        errors.append(eer(np.where(is_old[ids.codes], old, new), trials.known_labels))
    return float(np.mean(errors))
