"""Studies: how NESSA's gain depends on its data, its width and its parts, beyond a recipe's table.

Each study trains NESSA anew at several points, on the recipe's align set and with the recipe's
settings but for what the point changes, and evaluates it as stage asymmetric does: single-utterance
eval trials, both update directions, paired intervals. Most use the main trial list alone. Nothing
of it is used to choose anything.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nessa.alignment.base import Aligner
from nessa.alignment.config import NeuralConfig
from nessa.alignment.neural import NeuralAligner
from nessa.alignment.table import AlignTable
from nessa.corpus.origins import original_speakers, read_additions
from nessa.errors import InputError
from nessa.evaluation.conditions import Condition, utterance_conditions
from nessa.files import Record
from nessa.kaldi.datadir import read_optional, read_utt2spk, utterances_by_speaker
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.bootstrap import Estimate, bootstrap, figures, mean_estimate, recovered_gain
from nessa.metrics.table import EER
from nessa.progress import progress
from nessa.recipe.config import Recipe
from nessa.recipe.fitting import read_dev
from nessa.recipe.layout import embeddings_dir
from nessa.recipe.study_files import DURATIONS, ROLLOUT, read_study, study_digest, write_study
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.sides import Scores
from nessa.trials import Trials

log = logging.getLogger(__name__)
SPEAKERS = (50, 100, 200, 500, 1000, 2000, 5000)
UTTERANCES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
WIDTHS = (0, 16, 64, 256, 1024)

# What the method is made of, each taken away or replaced by itself. The enrollment side of the
# fit is the new model; its mirror serves the other direction. Where lengths cannot count, they do
# not, whatever the recipe says.
PARTS: dict[str, dict[str, Any]] = {
    "NESSA as in the recipe": {},
    "no MLP: linear maps": {"hidden_dim": 0},
    "no whitening": {"whitening_shrinkage": 1.0},
    "cosine instead of the ratio": {"score": "cosine", "start": "best", "length_power": 0.0},
    "the ratio alone": {"start": "plda", "score": "ratio"},
    "start: CCA": {"start": "cca"},
    "random start": {"start": "random"},
    "no dropout": {"dropout": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "no distillation": {"distillation": 0.0},
    "64 speakers a batch": {"speakers_per_batch": 64},
    "profiles of up to 3 utterances in training": {"utterances_per_speaker": 4},
    "new model's space kept, old model mapped": {
        "mode": "to-enroll",
        "start": "best",
        "length_power": 0.0,
    },
    "old model's space kept, new model mapped": {
        "mode": "to-runtime",
        "start": "best",
        "length_power": 0.0,
    },
}

Pair = tuple[str, str]  # (enrollment model, runtime model)


class Point(NamedTuple):
    """One setting of a study.

    Attributes:
        label: what it is, in words.
        value: its place on the axis of a curve; None in a study that is a table.
        systems: the fitted aligners of each pair of models, one per seed.
    """

    label: str
    value: float | None
    systems: Mapping[Pair, Sequence[Aligner]]


def run_study(
    name: str,
    recipe: Recipe,
    data: Path,
    exp: Path,
    output: Path,
    whole: Mapping[Pair, Aligner] | None = None,
) -> list[Record]:
    """Run a study and write its records as JSON.

    Args:
        name: a key of `STUDIES`.
        recipe: the resolved recipe.
        data: holds the align, dev and eval sets.
        exp: holds embeddings/.
        output: receives {"study", "digest", "records"}.
        whole: the aligners of the recipe, which a curve ends with; None: they are fitted.

    Returns:
        A record per point and pair of models: {"label", "value", "enroll", "runtime", "eer",
        "eer_ci", "gain", "gain_ci"}; rates and gain as fractions, the mean over the seeds. A study
        of `ON_EVERY_LIST` has them for each list of single utterances, named by "condition".

    Raises:
        InputError: embeddings or trials are missing, or what the study is about.
    """
    key = study_digest(name, recipe, data, exp)  # of what is read now, whatever changes meanwhile
    runner = StudyRunner(recipe, data, exp, whole)
    points = list(STUDIES[name](runner))
    if name in ON_EVERY_LIST:
        records = [
            record | {"condition": condition.name}
            for condition in runner.conditions
            for record in runner.evaluate(points, condition)
        ]
    else:
        records = runner.evaluate(points, runner.conditions[0])
    write_study(output, name, key, records)
    return records


class StudyRunner:
    """The align and dev sets of both models, and how to fit and evaluate NESSA on them."""

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        exp: Path,
        whole: Mapping[Pair, Aligner] | None = None,
    ) -> None:
        self.recipe, self.data, self.whole = recipe, data, whole
        self.sets = {
            (model, part): Embeddings.read(embeddings_dir(exp, model, part))
            for model in recipe.update
            for part in ("align", "eval")
        }
        old, new = recipe.update
        held_out = [embeddings_dir(exp, model, "dev") for model in recipe.update]
        self.dev = read_dev(data / "dev", *held_out)
        self.sets |= {(old, "dev"): self.dev.enroll, (new, "dev"): self.dev.runtime}
        self.speakers = read_utt2spk(data / "align")
        self.originals = original_speakers(data / "align")
        self.domains = {n: read_optional(data / n, "utt2domain") for n in ("align", "eval")}
        self.conditions = utterance_conditions(data / "eval")

    def fit(
        self,
        pair: Pair,
        keys: Sequence[str] | None = None,
        base: NeuralAligner | None = None,
        seed: int | None = None,
        **changes: Any,
    ) -> NeuralAligner:
        """NESSA between two models.

        Args:
            pair: the models.
            keys: the align utterances to use; None: all.
            base: an aligner whose enrollment side stays as it is.
            seed: None: the recipe's first.
            changes: of the recipe's settings.
        """
        seed = self.recipe.aligner.seeds[0] if seed is None else seed
        aligner = base or NeuralAligner(seed=seed, **(self.recipe.aligner.training | changes))
        enroll, runtime = pair
        dev = replace(self.dev, enroll=self.sets[enroll, "dev"], runtime=self.sets[runtime, "dev"])
        x, y = self.sets[enroll, "align"], self.sets[runtime, "align"]
        if keys is not None:
            x, y = x.select(keys), y.select(keys)
        log.info("fit %s-%s: %d utterances %s", enroll, runtime, len(x), changes or "")
        table = AlignTable.of(x, y, self.speakers).with_domains(self.domains["align"])
        table = table.with_persons(self.originals)
        return aligner.fit_table(table, dev, freeze="enroll" if base else None)

    def both_ways(self, **options: Any) -> dict[Pair, list[Aligner]]:
        """One fit, which serves both update directions; see `fit`."""
        one, other = self.recipe.pairs
        aligner = self.fit(one, **options)
        return {one: [aligner], other: [aligner.mirrored()]}

    def utterances_by_speaker(self) -> dict[str, list[str]]:
        """{speaker: align utterances}, speakers and utterances in key order.

        A copy is its original's speaker's, though it may count as another in training.
        """
        keys = self.sets[self.recipe.update[0], "align"].keys
        return utterances_by_speaker(sorted(keys), self.originals)

    def evaluate(self, points: Sequence[Point], condition: Condition) -> list[Record]:
        """Records of all points on the trials of a condition, from the same bootstrap draws."""
        trials = condition.trials
        old, new = self.recipe.update
        cells = [(point, pair) for point in points for pair in point.systems]
        scores = [self._raw_scores(model, trials) for model in (old, new)]
        members = []
        for point, pair in cells:
            first = len(scores)
            scores += [self._scores(aligner, pair, trials) for aligner in point.systems[pair]]
            members.append(range(first, len(scores)))
        errors = drawn_errors(self.recipe, scores, condition)
        records = []
        for (point, (enroll, runtime)), rows in zip(cells, members, strict=True):
            error = mean_estimate([errors[row] for row in rows])
            gain = recovered_gain(errors[0], error, errors[1])
            records.append(
                {
                    "label": point.label,
                    "value": point.value,
                    "enroll": enroll,
                    "runtime": runtime,
                    **measured(error, gain),
                }
            )
        return records

    def _raw_scores(self, model: str, trials: Trials) -> Scores:
        embeddings = self.sets[model, "eval"]
        return cosine_scores(embeddings, embeddings, trials)

    def _scores(self, aligner: Aligner, pair: Pair, trials: Trials) -> Scores:
        enroll, runtime = (self.sets[model, "eval"] for model in pair)
        return cosine_scores(*aligner.map_views(enroll, runtime, self.domains["eval"]), trials)


def _watched(points: Sequence[Any], what: str) -> Iterable[Any]:
    return progress(points, total=len(points), what=what)


def _by_speakers(runner: StudyRunner) -> Iterator[Point]:
    """Nested sets of align speakers, drawn at random."""
    utterances = runner.utterances_by_speaker()
    order = np.random.default_rng(runner.recipe.seed).permutation(sorted(utterances))
    counts = [count for count in SPEAKERS if count < len(order)]
    for count in _watched([*counts, len(order)], "align speakers"):
        label = f"{count} speakers"
        if count == len(order) and runner.whole:
            yield Point(label, count, {pair: [own] for pair, own in runner.whole.items()})
            return
        keys = [key for speaker in sorted(order[:count]) for key in utterances[speaker]]
        yield Point(label, count, runner.both_ways(keys=keys))


def _by_utterances(runner: StudyRunner) -> Iterator[Point]:
    """The first utterances of every align speaker."""
    utterances = runner.utterances_by_speaker()
    most = max(map(len, utterances.values()))
    counts = [count for count in UTTERANCES if count < most]
    for count in _watched([*counts, most], "utterances per speaker"):
        keys = [key for own in utterances.values() for key in own[:count]]
        yield Point(f"{count} utterances", count, runner.both_ways(keys=keys))


def _by_width(runner: StudyRunner) -> Iterator[Point]:
    for width in _watched(WIDTHS, "hidden units"):
        yield Point(f"{width} units", width, runner.both_ways(hidden_dim=width))


def _by_parts(runner: StudyRunner) -> Iterator[Point]:
    for label, changes in _watched(list(_differing_parts(runner.recipe)), "parts"):
        yield Point(label, None, runner.both_ways(**changes))


def _differing_parts(recipe: Recipe) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those of `PARTS` without which NESSA is another one than the recipe's."""
    settings = recipe.aligner.training
    own = NeuralConfig(**settings)
    unread = {"distillation"} if own.score == "cosine" else set()
    if own.mode != "shared":
        unread = {"score", "start", "distillation", "length_power"}
    for label, changes in PARTS.items():
        is_read = bool(changes.keys() - unread)
        if not changes or (is_read and NeuralConfig(**(settings | changes)) != own):
            yield label, changes


def _by_freezing(runner: StudyRunner) -> Iterator[Point]:
    """A runtime model that joins a space against training both sides for it, all seeds."""
    seeds = runner.recipe.aligner.seeds
    old, new = runner.recipe.update
    bases: dict[Pair, list[NeuralAligner]] = {}
    for pair in _watched([(old, old), (new, new), (new, old)], "both sides trained"):
        bases[pair] = [runner.fit(pair, seed=seed) for seed in seeds]
    bases[old, new] = [aligner.mirrored() for aligner in bases[new, old]]
    for pair, fitted in bases.items():
        yield Point("both sides trained", None, {pair: fitted})
    updates = [((old, old), new), ((new, old), new), ((old, new), old), ((new, new), old)]
    for (enroll, before), after in _watched(updates, "enrollment side frozen"):
        label = f"{enroll}'s profiles frozen as mapped for runtime {before}"
        joined = [_join(runner, base, enroll, after) for base in bases[enroll, before]]
        yield Point(label, None, {(enroll, after): joined})


def _by_augmentation(runner: StudyRunner) -> Iterator[Point]:
    """The align set as recorded, with each of its additions alone, and with all of them."""
    directory = runner.data / "align"
    added = read_additions(directory)
    if not added:
        raise InputError(
            f"{directory}: neither copies nor additional speakers, whose effect is to be studied; "
            "name some in prepare.align_copies or corpus.paths.align_also, and run the recipe again"
        )
    keys = runner.sets[runner.recipe.update[0], "align"].keys
    kinds = list(dict.fromkeys(added.values()))
    if lacking := set(kinds) - {added[key] for key in keys if key in added}:
        raise InputError(
            f"{directory}: no embeddings of {min(lacking)}; run ./run.sh --stage extract again"
        )
    points = {"as recorded": set[str](), **{f"with {kind}": {kind} for kind in kinds}}
    if len(kinds) > 1:
        points["with all of them"] = set(kinds)
    for label, wanted in _watched(list(points.items()), "align sets"):
        chosen = [key for key in keys if key not in added or added[key] in wanted]
        yield Point(label, None, runner.both_ways(keys=chosen))


def _join(runner: StudyRunner, base: NeuralAligner, enroll: str, runtime: str) -> NeuralAligner:
    """`base` with a runtime side trained for another model; stored profiles must not move."""
    profiles = runner.sets[enroll, "eval"].matrix
    stored = base.map_enroll(profiles)
    updated = runner.fit((enroll, runtime), base=deepcopy(base))
    if not np.array_equal(updated.map_enroll(profiles), stored):
        raise RuntimeError("a frozen side has moved; mapped profiles would be worthless")
    return updated


def drawn_errors(recipe: Recipe, scores: Sequence[Scores], condition: Condition) -> list[Estimate]:
    """The EER of each scores (T,) of a condition's trials, all from the recipe's draws."""
    drawn = bootstrap(
        scores,
        condition.trials.known_labels,
        *condition.speakers,
        draws=recipe.evaluation.bootstrap_draws,
        seed=recipe.evaluation.seed,
        metrics=[EER],
    )
    return [estimates[EER.key] for estimates in drawn]


def measured(error: Estimate, gain: Estimate | None) -> Record:
    """What every record of a study says of an EER, and of the gain where it is defined."""
    return figures("eer", error) | figures("gain", gain)


STUDIES: dict[str, Callable[[StudyRunner], Iterator[Point]]] = {
    "speakers": _by_speakers,
    "utterances": _by_utterances,
    "width": _by_width,
    "parts": _by_parts,
    "freeze": _by_freezing,
    "augmentation": _by_augmentation,
}
ON_EVERY_LIST = {"augmentation"}  # what helps one kind of speech may harm another


def read_studies(recipe: Recipe, data: Path, exp: Path) -> dict[str, list[Record]]:
    """The studies in exp/studies of the recipe and the files as they are, by name.

    Raises:
        InputError: a file there is no study.
    """
    found: dict[str, list[Record]] = {}
    for name in (*STUDIES, DURATIONS, ROLLOUT):
        path = exp / "studies" / f"{name}.json"
        if not path.is_file():
            continue
        study = read_study(path)
        if study["digest"] == study_digest(name, recipe, data, exp):
            found[name] = study["records"]
        else:
            log.warning(
                "%s: made with other settings, data or aligners; run `nessa study %s` again",
                path, name,
            )  # fmt: skip
    return found
