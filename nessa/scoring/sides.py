"""Trial lists on disk -> score files: cosine, AS-norm and calibration of two embeddings folders."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nessa.errors import InputError, about, named
from nessa.kaldi.datadir import MAPPED_MAP, is_there, read_optional
from nessa.kaldi.directory import MEANS_OF_SPEAKERS, SPEAKER_COUNTS
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.kaldi.stamps import names_model, pair_of
from nessa.metrics.roc import eer, min_dcf
from nessa.scoring.calibration import (
    Calibration,
    Method,
    calibrate,
    check_pair,
    read_calibration,
)
from nessa.scoring.cosine import check_dimensions, cosine_scores
from nessa.scoring.exemplars import Combine, exemplar_scores
from nessa.scoring.normalization import TOP_N, AsNorm
from nessa.trials import Trials, rates_fault, read_enroll_map, write_scores

log = logging.getLogger(__name__)
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Sides:
    """Embeddings of the enrollment and of the runtime side, in one space, and their files."""

    enroll: Embeddings
    runtime: Embeddings
    paths: tuple[Path, Path]

    @classmethod
    def read(cls, enroll: Path, runtime: Path) -> "Sides":
        """Read both sides.

        Args:
            enroll, runtime: embeddings directories, scp or ark; the same path for one model.

        Raises:
            InputError: unreadable, or not in one space: dimensions or stamps differ; or one side
                twice, where only vectors of both sides are compared.
        """
        enrolled = Embeddings.read(enroll)
        tested = enrolled if runtime == enroll else Embeddings.read(runtime)
        with about(enroll, runtime):
            check_dimensions(enrolled, tested)
        _check_same_model(enroll, enrolled, runtime, tested)
        side = _side(enrolled)
        if side and side == _side(tested):
            raise InputError(
                f"{enroll} and {runtime} are both of the {side} side, and this aligner's scores "
                "are of one vector of each side; give those that nessa map wrote to enroll and "
                "to runtime"
            )
        _warn_of_other_maps(enroll, enrolled, runtime, tested)
        return cls(enrolled, tested, (enroll, runtime))

    def with_profiles(self, enroll_map: Path, enrolled: Sequence[str]) -> "Sides":
        """The sides with the profiles of an enrollment map instead of its utterances.

        Profiles that are among the enrollment embeddings already, as those of a shared space
        are, stay as they are; those that no trial names are left out.

        Args:
            enroll_map: {profile: utterances}.
            enrolled: enrollment ids of the trials, of which some may be utterances.

        Raises:
            InputError: the map is unreadable, or names a profile of several utterances as one of
                them; or an utterance of a profile that is enrolled has no embedding; or some of
                these profiles, but not all, are among the embeddings; or these are mapped ones,
                and lack such a profile, whose mean should have been mapped; or have that of others.
        """
        profiles = read_enroll_map(enroll_map)
        members = {utterance for own in profiles.values() for utterance in own}
        if both := [p for p, own in profiles.items() if p in members and list(own) != [p]]:
            raise InputError(
                f"{enroll_map}: {named(both)} is an utterance, and a profile of others; rename it"
            )
        tried = set(enrolled)
        wanted = {p: own for p, own in profiles.items() if p in tried}
        there = set(self.enroll.keys)
        lacking = [p for p in wanted if p not in there]
        if wanted and not lacking:
            check_members(enroll_map, wanted, self.enroll, self.paths[0])
            return self
        if any(p in there and list(own) != [p] for p, own in wanted.items()):
            stamp = self.enroll.stamp
            remedy = (
                "map all of them with this map (nessa map --enroll-map)"
                if stamp and stamp.is_mapped
                else "give embeddings of all of them, or of their utterances alone"
            )
            raise InputError(
                f"{enroll_map}, {self.paths[0]}: some profiles are there, and others are without "
                f"an embedding: {named(lacking)}; {remedy}"
            )
        if late := averaged_late(self.enroll, wanted):
            raise InputError(
                f"{self.paths[0]}: mapped, but without profile {named(late)} of {enroll_map}, "
                "which is averaged before it is mapped; give --enroll-map to nessa map as well"
            )
        with about(enroll_map, self.paths[0]):
            means = enrolled_means(self.enroll, wanted, enrolled)
        return Sides(means, self.runtime, (enroll_map, self.paths[1]))

    def as_norm(self, cohort: "Sides", top_n: int) -> AsNorm:
        """What normalizes scores of these sides; see `nessa.scoring.normalization.AsNorm`."""
        _check_same_model(self.paths[1], self.runtime, cohort.paths[1], cohort.runtime)
        of_sides = (self.enroll, cohort.enroll), (self.runtime, cohort.runtime)
        for path, other, pair in zip(self.paths, cohort.paths, of_sides, strict=True):
            # A mirror has the same maps, but a ratio its numbers in other places on each side.
            maps = {own.stamp.map for own in pair if own.stamp and own.stamp.map}
            if len(maps) > 1 or len({side for own in pair if (side := _side(own))}) > 1:
                raise InputError(
                    f"{other}: was mapped by another aligner than {path}, or as the other side, "
                    "or before its side was fitted anew; give the cohort of this side, mapped anew"
                )
        with about(*cohort.paths):
            return AsNorm(self.enroll, self.runtime, cohort.enroll, cohort.runtime, top_n)


def check_members(
    enroll_map: Path, profiles: Mapping[str, Sequence[str]], enrolled: Embeddings, place: Path
) -> None:
    """Refuse profiles of other utterances than theirs, where it is told whose means they are.

    The map beside mapped ones tells it; and of means of speakers, mapped or not, the counts of
    utterances beside them. Profiles of which nothing is told are taken, mapped ones with a warning.

    Args:
        enroll_map: that names the profiles, for the message.
        profiles: {profile: utterances}.
        enrolled: what holds them: mapped embeddings, or the means of speakers, or others.
        place: its directory, scp or ark.
    """
    mapped = enrolled.stamp is not None and enrolled.stamp.is_mapped
    if not mapped and place.name not in MEANS_OF_SPEAKERS:
        return
    folder = place if place.is_dir() else place.parent
    known = folder / MAPPED_MAP
    members = read_enroll_map(known if mapped and is_there(known) else None)
    if other := [p for p, own in profiles.items() if sorted(members.get(p, own)) != sorted(own)]:
        raise InputError(
            f"{enroll_map}: of other utterances than was mapped, see {known}: {named(other)}; "
            "run nessa map with this --enroll-map (in a recipe, --stage map)"
        )
    there = set(enrolled.keys).difference(members)
    means = {p: str(len(own)) for p, own in profiles.items() if p in there and list(own) != [p]}
    counts = read_optional(folder, SPEAKER_COUNTS)
    if other := [p for p, size in means.items() if counts.get(p, size) != size]:
        remedy = "give the embeddings of the utterances"
        raise InputError(
            f"{enroll_map}: of other utterances than the means of speakers in {place}: "
            f"{named(other)}; {remedy}{' to nessa map, with this --enroll-map' if mapped else ''}"
        )
    if mapped and (untold := [p for p in means if p not in counts]):
        log.warning(
            "%s: nothing beside %s tells whether %s are means of the same utterances: they were "
            "mapped by an earlier version, or without --enroll-map; make sure that they are",
            enroll_map, place, named(untold),
        )  # fmt: skip


def averaged_late(embeddings: Embeddings, profiles: Mapping[str, Sequence[str]]) -> list[str]:
    """The profiles whose means would be of mapped embeddings, as they must not be."""
    if embeddings.stamp is None or not embeddings.stamp.is_mapped:
        return []
    known = set(embeddings.keys)
    return [name for name, own in profiles.items() if len(own) > 1 and name not in known]


def enrolled_means(
    embeddings: Embeddings, profiles: Mapping[str, Sequence[str]], enrolled: Sequence[str]
) -> Embeddings:
    """The means of profiles, and the embeddings of enrollment ids that are utterances.

    Raises:
        InputError: an utterance without an embedding.
    """
    alone = {name: [name] for name in enrolled if name not in profiles}
    return profile_means(embeddings, {**profiles, **alone})


def _check_same_model(path: Path, one: Embeddings, other_path: Path, other: Embeddings) -> None:
    if one.stamp and other.stamp and one.stamp.fingerprint != other.stamp.fingerprint:
        raise InputError(
            f"{path} is of model {one.stamp.model!r}, {other_path} of {other.stamp.model!r}: "
            f"their scores mean nothing; map both into one space first (nessa map)"
        )


def _warn_of_other_maps(path: Path, one: Embeddings, other_path: Path, other: Embeddings) -> None:
    """Warn of vectors in one space whose maps are not both of the aligner of one of them.

    Those of the first and of the third of three may be of the second: they do not tell.
    """
    stamps = [own.stamp for own in (one, other) if own.stamp]
    pairs = {stamp.map: stamp.pair for stamp in stamps if stamp.map and stamp.pair}
    if len(pairs) == 2 and pair_of(pairs) not in pairs.values():
        log.warning(
            "%s, %s: neither of the aligners that mapped these has both maps: unless another one "
            "fitted them to each other (nessa align --freeze), their scores are not comparable; "
            "map one side again by the aligner that has both",
            path, other_path,
        )  # fmt: skip


def _side(embeddings: Embeddings) -> str | None:
    """The side that vectors are of; None where they may be compared with any, or it is unknown."""
    return embeddings.stamp.side if embeddings.stamp else None


def _check_aligner(path: Path, calibration: Calibration, sides: Sides) -> None:
    """Refuse the calibration of another aligner, direction or model than what is scored."""
    stamps = [own.stamp for own in (sides.runtime, sides.enroll) if own.stamp]
    maps = [stamp.map for stamp in stamps if stamp.map]
    if len(maps) == 2:  # of mapped vectors, but those that an earlier version mapped
        if maps[0] != maps[1]:
            check_pair(path, calibration.pair, pair_of(maps), calibration.enroll, maps[1])
        elif calibration.pair not in (None, pair_of(maps)):  # the runtime side, and the mirror's
            raise InputError(
                f"{path}: is of another aligner's scores: these are of one model on both sides, as "
                "in a gallery of both models; make it of these without --aligner, never for export"
            )
        return
    known = calibration.space or calibration.pair
    # Raw vectors that name no model may be of the same one as others that name none.
    if not stamps or not (stamps[0].is_mapped or names_model(known)):
        return
    if known not in (None, stamps[0].fingerprint) and not (calibration.space or calibration.method):
        log.warning(
            "%s: is of another aligner's scores, or of an earlier version, which did not say where "
            "a side has joined a space (nessa align --freeze); make it anew", path,
        )  # fmt: skip
        return
    check_pair(path, known, stamps[0].fingerprint)
    if calibration.space not in (None, calibration.pair):
        log.warning(
            "%s: is of an aligner whose one side has joined this space (nessa align --freeze), and "
            "other aligners map into it as well; make sure that this one mapped both sides", path,
        )  # fmt: skip


def score_trials(
    enroll: Path,
    runtime: Path,
    trials: Path,
    output: Path,
    enroll_map: Path | None = None,
    cohort: tuple[Path, Path] | None = None,
    top_n: int = TOP_N,
    calibration: Path | None = None,
    utt2dur: Path | None = None,
    exemplars: Combine | None = None,
) -> str:
    """Score a trial list by cosine and write the scores.

    Args:
        enroll, runtime: embeddings of the two sides, in one space.
        trials: the list; an enrollment id is an utterance or a profile.
        output: receives `enroll test score`, in trial order.
        enroll_map: profiles to average from the enrollment embeddings, unless these hold them;
            None where the list has none.
        cohort: of AS-norm, embeddings made as those of the enrollment and of the runtime side.
        top_n: cohort scores that count in AS-norm.
        calibration: of `nessa.scoring.calibration.fit_calibration`; natural-log likelihood
            ratios are written then. It asks for the files that it was fitted with.
        utt2dur: {utterance: seconds}, for a calibration with durations.
        exemplars: do not average the profiles of `enroll_map`, but combine the cosines with each
            of their utterances.

    Returns:
        What `score_summary` says of them.

    Raises:
        InputError: a trial names an utterance without an embedding, what is compared is not in
            one space, or the calibration is of other scores or of another aligner, or was fitted
            with other quality measures.
    """
    wanted = Trials.read(trials)
    sides = Sides.read(enroll, runtime)
    if enroll_map is not None and exemplars is None:
        sides = sides.with_profiles(enroll_map, wanted.enroll_index.names)
    profiles = read_enroll_map(enroll_map if exemplars else None)
    with about(trials, *sides.paths):
        if exemplars is None:
            scores = cosine_scores(sides.enroll, sides.runtime, wanted)
        else:
            scores = exemplar_scores(sides.enroll, sides.runtime, wanted, profiles, exemplars)
    if cohort is not None:
        as_norm = sides.as_norm(Sides.read(*cohort), top_n)
        with about(trials, *cohort):
            scores = as_norm.apply(scores, wanted)
    if calibration is not None:
        method: Method = "cosine" if cohort is None else "as_norm"
        fitted = read_calibration(calibration, method=method)
        _check_aligner(calibration, fitted, sides)
        with about(calibration):
            scores = calibrate(fitted, scores, wanted, utt2dur, enroll_map).astype(np.float32)
    write_scores(output, wanted, scores)
    return score_summary(output, wanted, scores)


def score_summary(output: Path, trials: Trials, scores: npt.ArrayLike) -> str:
    """One line: the number of trials, with EER and minDCF where both classes are labeled."""
    line = f"{output}: {len(trials)} trials"
    if rates_fault(trials):
        return line
    error, cost = eer(scores, trials.known_labels), min_dcf(scores, trials.known_labels)
    return f"{line}, EER {error:.2%}, minDCF {cost:.3f}"
