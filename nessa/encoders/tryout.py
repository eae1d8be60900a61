"""A model tried on a few utterances of the user's own, before hours of extraction.

This is the cheap part of `nessa.encoders.selftest`. What makes all embeddings useless is refused;
what a good encoder may show as well is a warning.
"""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from lhotse.cut import MonoCut

from nessa.corpus.audio import reason
from nessa.corpus.manifests import CutTable
from nessa.encoders.config import FeatureConfig
from nessa.encoders.selftest import (
    BETTER,
    SAME,
    USEFUL,
    Matrix,
    Subject,
    choose_speakers,
    dead_dimensions,
    embed_alone,
    embed_together,
    largest_distance,
    open_encoder,
    pairs_fault,
    separation,
)
from nessa.errors import InputError, is_out_of_memory

log = logging.getLogger(__name__)
SECONDS = 2.0  # of each utterance
UTTERANCES = 2  # of each speaker
FEW = 4  # utterances, of which each is embedded in several ways
ENOUGH = 12  # utterances, for dead dimensions and for other settings
BUDGET = 10.0  # seconds for all; a slow model is tried on a few utterances only
TRAINING_MODE = 0.01  # cosine distance, which rounding, dither and quantization do not reach


class Tried(NamedTuple):
    """Embeddings of some utterances, float64.

    Attributes:
        alone: each by itself, (N, D).
        again: the first ones once more, (FEW, D).
        equal: the first ones, cut to one length: each by itself and in one batch, (FEW, D) each.
        padded: the same of lengths that differ.
        others: {setting: embeddings (N, D) with it}; empty where the model is slow.
    """

    alone: Matrix
    again: Matrix
    equal: tuple[Matrix, Matrix]
    padded: tuple[Matrix, Matrix]
    others: Mapping[str, Matrix]


def try_encoder(folder: Path, data: Path, set_name: str) -> Iterator[str]:
    """Yield a warning for each thing that looks wrong, then what was tried.

    Args:
        folder: of the model, with config.yaml.
        data: the recipe's data folder.
        set_name: train, align, dev or eval.

    Raises:
        InputError: the model cannot be loaded, or its embeddings are of no use.
    """
    subject = open_encoder(folder)
    name = subject.model.name
    cuts = _readable(subject, CutTable(data, set_name))
    if len(cuts) < FEW:
        what = f"only {len(cuts)} of its utterances in {set_name} can be read"
        log.info("model %r is not tried: %s", name, what)
        return
    try:
        tried = _embed(subject, cuts)
    except Exception as error:  # of any library; extraction names the utterances, or skips them
        if is_out_of_memory(error):
            raise
        log.info("model %r is not tried: %s", name, reason(error))
        return
    _refuse_useless(name, tried)
    speakers = [cut.supervisions[0].speaker for cut in cuts[: len(tried.alone)]]
    obstacle = pairs_fault(speakers)
    for warning in _warnings(tried, None if obstacle else speakers):
        yield f"warning: model {name!r}: {warning}; nessa check-encoder looks closer"
    unchecked = f"; speakers: not checked, {obstacle}" if obstacle and tried.others else ""
    yield (
        f"model {name!r}: tried on {len(tried.alone)} utterances of {len(set(speakers))} speakers"
        f"{unchecked}"
    )


# --- embeddings -----------------------------------------------------------------------------------


def _readable(subject: Subject, table: CutTable) -> list[MonoCut]:
    """The first seconds of some utterances that the model can read, one of each speaker first."""
    by_speaker = choose_speakers(table.of_speaker())
    rows = [own[turn] for turn in range(UTTERANCES) for own in by_speaker if turn < len(own)]
    found = []
    for row in rows:
        cut = table[row]
        if cut.has_recording and cut.duration > SECONDS:
            cut = cut.truncate(duration=SECONDS, preserve_id=True)
        try:
            subject.model.read(cut)
        except InputError:
            continue
        found.append(cut)
    return found


def _embed(subject: Subject, cuts: Sequence[MonoCut]) -> Tried:
    model = subject.model
    few = [model.read(cut) for cut in cuts[:FEW]]
    again = embed_alone(model, few)  # first, as it sets up what the model needs
    start = time.perf_counter()
    alone = embed_alone(model, few)
    each = (time.perf_counter() - start) / FEW
    length = min(map(len, few))
    equal = [one[:length] for one in few]
    shares = np.linspace(0.6, 1, FEW)
    padded = [one[: max(1, int(share * length))] for one, share in zip(few, shares, strict=True)]
    settings = dict(_other_settings(subject))
    others = {}
    if len(cuts) * (1 + len(settings)) * each <= BUDGET:
        rest = [model.read(cut) for cut in cuts[FEW:]]
        alone = np.concatenate([alone, *(embed_alone(model, [one]) for one in rest)])
        for label, changed in settings.items():
            other = subject.with_features(changed)
            others[label] = embed_alone(other, [other.read(cut) for cut in cuts])
    return Tried(
        alone,
        again,
        (embed_alone(model, equal), embed_together(model, equal)),
        (embed_alone(model, padded), embed_together(model, padded)),
        others,
    )


def _other_settings(subject: Subject) -> Iterator[tuple[str, FeatureConfig]]:
    """Those that matter most; a window, and a scale that the mean takes away, matter little."""
    if (features := subject.features) is None:
        return
    for label, changed in subject.variants():
        same_scale = changed.scale == features.scale
        if changed.window == features.window and (same_scale or not features.mean_norm):
            yield label, changed


# --- verdicts -------------------------------------------------------------------------------------


def _refuse_useless(name: str, tried: Tried) -> None:
    """Refuse what no good encoder shows."""
    alone = tried.alone
    evaluation = "put the network into evaluation mode (`model.eval()`)"
    if not np.isfinite(alone).all(axis=1).any():
        raise InputError(
            f"model {name!r}: its embeddings of all {len(alone)} utterances that were tried are "
            "not finite; check its weights, and scale and mean_norm of its `features`"
        )
    if (alone == alone[0]).all():
        raise InputError(
            f"model {name!r}: one and the same embedding for all {len(alone)} utterances that were "
            "tried; check its weights, and that it is the right output"
        )
    for seen, (one, other) in {
        "the same audio gets another embedding each time": (alone[:FEW], tried.again),
        "an embedding changes with the others of its batch": tried.equal,
    }.items():
        distance = largest_distance(one, other)
        if np.isfinite(distance) and distance > TRAINING_MODE:
            raise InputError(
                f"model {name!r}: {seen} (cosine distance {distance:.2g}): dropout or batch "
                f"normalization is in training mode, or chance takes part; {evaluation}"
            )


def _warnings(tried: Tried, speakers: Sequence[str] | None) -> Iterator[str]:
    """What looks wrong; by how well `speakers` are told apart as well, unless they are None."""
    alone = tried.alone
    bad = ~np.isfinite(alone).all(axis=1)
    if bad.any():
        yield f"embeddings of {bad.sum()} of {len(alone)} utterances are not finite"
    for what, (one, other), remedy in (
        ("repetition", (alone[:FEW], tried.again), "does chance take part?"),
        ("the batch", tried.equal, "is it in evaluation mode?"),
        ("padding", tried.padded, "mask it, or embed batches of one length"),
    ):
        distance = largest_distance(one, other)
        if SAME < distance < np.inf:
            yield f"{what} changes its embeddings (cosine distance {distance:.0e}): {remedy}"
    if bad.any() or len(alone) < ENOUGH:
        return
    if fault := dead_dimensions(alone).fault:
        yield f"dimensions: {fault}"
    if speakers is None:
        return
    own = separation(alone, speakers)
    for label, embedded in tried.others.items():
        found = separation(embedded, speakers)
        if found > max(own + 2 * BETTER, USEFUL):  # of half the utterances of the whole test
            yield (
                "other features tell its speakers apart better: cosines of one speaker and of two "
                f"lie {found:.2f} standard deviations apart, and {own:.2f} as it is; set {label}, "
                "if it was trained so"
            )
