"""Is an encoder used as it was trained? Faults show before anything is fitted to its embeddings.

Reference speech is embedded twice, alone and beside others, in silence and in short pieces; and
with other settings of its features, of which the right ones tell speakers apart best, or agree
with the original where that is at hand.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor

from nessa.corpus.manifests import CutTable
from nessa.corpus.utterances import SKIPPING, Utterance, make_cuts, sort_utterances
from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.base import SpeakerModel
from nessa.encoders.config import EncoderConfig, FeatureConfig, PretrainedConfig
from nessa.encoders.features import FeatureExtractor
from nessa.encoders.kinds import class_of, parse_settings
from nessa.encoders.models import load_model
from nessa.encoders.trained import CONFIG, TrainedModel
from nessa.errors import InputError, first_line
from nessa.kaldi.ark import Matrix
from nessa.schema import read_yaml

SAME = 1e-4  # largest cosine distance of two embeddings of the same audio
AGREES = 0.999  # lowest mean cosine with the original
BETTER = 0.5  # by how many standard deviations other settings must tell speakers apart better
USEFUL = 1.5  # and how well at least: of a network that knows no speakers, chance decides
SECONDS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # of pieces, of which the shortest that works is told
SPEAKERS, UTTERANCES = 12, 4  # of the reference, at most
# Below these, chance finds faults of good encoders: of mini's in 1 to 30 % of draws of speakers.
FEWEST_SPEAKERS, FEWEST_PAIRS = 5, 8
SCALES = (1.0, 32768.0)
NOT_FINITE = "not finite"  # what models say of embeddings that they refuse
WINDOWS = ("povey", "hamming", "hanning")
Utterances = TypeVar("Utterances", bound=Sized)


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        check: its name.
        fault: what is wrong; None where nothing is.
        remedy: what would mend it.
        fact: what was measured.
        obstacle: why nothing was.
    """

    check: str
    fault: str | None = None
    remedy: str = ""
    fact: str = ""
    obstacle: str | None = None

    def __str__(self) -> str:
        if self.obstacle:
            return f"{self.check}: not checked, {self.obstacle}"
        if self.fault is None:
            return f"{self.check}: ok{f' ({self.fact})' if self.fact else ''}"
        return f"{self.check}: FAULT: {self.fault}; {self.remedy}"


def choose_speakers(by_speaker: Iterable[Utterances]) -> list[Utterances]:
    """The first dozen speakers, those of two utterances or more before others: they make pairs."""
    several: list[Utterances] = []
    single: list[Utterances] = []
    for own in by_speaker:
        (several if len(own) > 1 else single).append(own)
        if len(several) == SPEAKERS:  # others need not be looked for
            break
    return [*several, *single][:SPEAKERS]


def reference_of(data: Path, set_name: str) -> list[MonoCut]:
    """Some utterances of a recipe's set: of a dozen speakers, four of each.

    Args:
        data: the recipe's data folder.
        set_name: train, align, dev or eval.

    Raises:
        InputError: there is no such set.
    """
    table = CutTable(data, set_name)
    rows = [row for own in choose_speakers(table.of_speaker()) for row in own[:UTTERANCES]]
    return [table[row] for row in rows]


def reference_in(folder: Path) -> list[MonoCut]:
    """Some utterances in files FOLDER/<speaker>/**/*.wav, as `nessa synth` makes them.

    Raises:
        InputError: no such folder, or no two speakers with two files or more.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; name one with <speaker>/**/*.wav")
    speakers = sorted(path for path in folder.iterdir() if path.is_dir())
    found = [utterance for own in choose_speakers(map(_files_of, speakers)) for utterance in own]
    counts = Counter(one.speaker for one in found)
    if len(counts) < 2 or max(counts.values()) < 2:
        raise InputError(
            f"{folder}: expected <speaker>/**/*.wav of two speakers or more, with two files or more"
        )
    return list(make_cuts(sort_utterances(found)))


def _files_of(speaker: Path) -> list[Utterance]:
    return [
        Utterance(
            f"{speaker.name}-{file.parent.name}-{file.stem}", speaker.name, file.parent.name, file
        )
        for file in sorted(speaker.rglob("*.wav"))[:UTTERANCES]
    ]


class Subject(NamedTuple):
    """A model under test.

    Attributes:
        model: as it is used.
        config: its settings.
        features: those of its features; None where it makes its own, or the corpus brings them.
    """

    model: SpeakerModel
    config: EncoderConfig | PretrainedConfig
    features: FeatureConfig | None

    @property
    def sampling_rate(self) -> int:
        """Of the audio that it takes, in Hz."""
        if self.features is not None:
            return self.features.sampling_rate
        return getattr(self.config, "sampling_rate", 16000)

    @property
    def takes_given(self) -> bool:
        """Whether it takes features that the corpus brings, not audio."""
        features = getattr(self.config, "features", None)
        return features is not None and features.type == "given"

    def variants(self) -> Iterator[tuple[str, FeatureConfig]]:
        """Each other value of the settings that people get wrong, one at a time, with its name.

        Empty where the model makes its own features, or its file says which it takes.
        """
        values: dict[str, Sequence[Any]] = {
            "scale": SCALES,
            "mean_norm": (True, False),
            "window": WINDOWS,
        }
        if self.features is None or getattr(self.model, "stated", None):
            return
        for name, choices in values.items():
            for value in choices:
                if value != getattr(self.features, name):
                    changed = self.features.model_copy(update={name: value})
                    yield self._named(name, changed), changed

    def _named(self, name: str, features: FeatureConfig) -> str:
        """A setting for a recipe: where others may be missing, whose defaults differ, all of it."""
        value = str(getattr(features, name)).lower()
        whole = f" ({features.line()})" if isinstance(self.config, PretrainedConfig) else ""
        return f"features.{name}={value}{whole}"

    def with_features(self, features: FeatureConfig) -> SpeakerModel:
        """The model with other features."""
        changed = self.config.model_copy(update={"features": features})
        if isinstance(changed, EncoderConfig):
            assert isinstance(self.model, TrainedModel)
            return TrainedModel(self.model.name, changed, self.model.encoder)
        return class_of(dict(changed))(self.model.name, changed)


def open_encoder(folder: Path) -> Subject:
    """Load what is to be tested.

    Args:
        folder: of the model, with config.yaml.

    Raises:
        InputError: the model cannot be loaded, or there are embeddings without one.
    """
    model = load_model(folder)
    if isinstance(model, GivenEmbeddings):
        raise InputError(f"{folder}: embeddings without a model, which cannot be checked")
    config = parse_settings(read_yaml(folder / CONFIG))
    features = getattr(config, "features", None)
    given = features is None or features.type != "fbank"
    return Subject(model, config, None if given else features)


def check_encoder(
    subject: Subject, cuts: Sequence[MonoCut], original: Subject | None = None
) -> Iterator[Finding]:
    """Yield what each check finds, the cheap ones first.

    Args:
        subject: the encoder.
        cuts: reference utterances of several speakers, two or more of each.
        original: the model that the encoder was exported from, or that it should equal.
    """
    model, features, rate = subject.model, subject.features, subject.sampling_rate
    cuts = [cut if subject.takes_given else _at_rate(cut, rate) for cut in cuts]
    inputs = [model.read(cut) for cut in cuts]
    yield _repeats(model, inputs)
    yield _neighbors(model, inputs)
    yield _padding(model, inputs)
    yield _silence(model, inputs, features)
    embedded = embed_alone(model, inputs)
    finite = np.isfinite(embedded).all(axis=1)
    if not finite.all():
        bad = [cuts[row].id for row in np.flatnonzero(~finite)]
        yield Finding(
            "speech",
            f"not finite for {len(bad)} of {len(cuts)} utterances, first {bad[0]}",
            "check its weights and its features",
        )
        return
    yield dead_dimensions(embedded)
    yield _shortest(model, cuts)
    speakers = [cut.supervisions[0].speaker for cut in cuts]
    variants = _embed_variants(subject, cuts)
    if original is not None:
        wanted = embed_alone(original.model, [original.model.read(cut) for cut in cuts])
        yield _agreement(embedded, wanted, variants)
    yield _separation(embedded, speakers, variants)


def _at_rate(cut: MonoCut, rate: int) -> MonoCut:
    same = not cut.has_recording or cut.recording.sampling_rate == rate
    return cut if same else cut.resample(rate)


def _embed_variants(subject: Subject, cuts: Sequence[MonoCut]) -> dict[str, Matrix]:
    """{setting: embeddings with it}, see `Subject.variants`."""
    embedded = {}
    for label, changed in subject.variants():
        model = subject.with_features(changed)
        embedded[label] = embed_alone(model, [model.read(cut) for cut in cuts])
    return embedded


# --- checks ---------------------------------------------------------------------------------------


def embed_alone(model: SpeakerModel, inputs: Sequence[Tensor]) -> Matrix:
    """Each by itself: (N, D), float64."""
    return torch.cat([model.embed([one]) for one in inputs]).numpy().astype(np.float64)


def embed_together(model: SpeakerModel, inputs: list[Tensor]) -> Matrix:
    """In one batch: (N, D), float64."""
    return model.embed(inputs).numpy().astype(np.float64)


def largest_distance(a: Matrix, b: Matrix) -> float:
    """The largest cosine distance of two rows (N, D)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(1 - cosines.min()) if np.isfinite(cosines).all() else np.inf


def _judged(check: str, distance: float, fault: str, remedy: str) -> Finding:
    fact = f"cosine distance {distance:.0e}"
    if distance <= SAME:
        return Finding(check, fact=fact)
    return Finding(check, f"{fault} ({fact})", remedy)


def _repeats(model: SpeakerModel, inputs: Sequence[Tensor]) -> Finding:
    one = inputs[:4]
    return _judged(
        "repetition",
        largest_distance(embed_alone(model, one), embed_alone(model, one)),
        "another embedding of the same audio each time: dropout is on, or chance takes part",
        "put the network into evaluation mode (`model.eval()`) before it is used or exported",
    )


def _neighbors(model: SpeakerModel, inputs: Sequence[Tensor]) -> Finding:
    length = min(map(len, inputs))
    equal = [one[:length] for one in inputs[:8]]
    return _judged(
        "batch",
        largest_distance(embed_together(model, equal), embed_alone(model, equal)),
        "an embedding changes with the others of its batch: batch normalization is in training "
        "mode",
        "put the network into evaluation mode (`model.eval()`) before it is used or exported",
    )


def _padding(model: SpeakerModel, inputs: Sequence[Tensor]) -> Finding:
    chosen = sorted(inputs, key=len)[:: max(1, len(inputs) // 8)]
    short = [one[: max(1, int(len(one) * share))] for one, share in _shares(chosen)]
    return _judged(
        "padding",
        largest_distance(embed_together(model, short), embed_alone(model, short)),
        "an embedding changes with the lengths beside it: padding is not masked",
        "mask it, or embed batches of one length",
    )


def _shares(inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, float]]:
    """Lengths that differ, also where all utterances are equally long."""
    for number, one in enumerate(inputs):
        yield one, 1 - 0.4 * (number % 3) / 2


def _silence(
    model: SpeakerModel, inputs: Sequence[Tensor], features: FeatureConfig | None
) -> Finding:
    if features is not None and inputs[0].ndim == 2:
        samples = torch.zeros(1, 2 * features.sampling_rate)
        quiet = FeatureExtractor(features)(samples)[0]
    else:
        quiet = torch.zeros_like(inputs[0])
    try:
        if np.isfinite(embed_alone(model, [quiet])).all():
            return Finding("silence")
    except Exception as error:  # of any library
        if NOT_FINITE not in str(error):
            return Finding("silence", fact=f"refused: {first_line(error)}")
    return Finding(
        "silence",
        "NaN or infinite values for silence",
        "let its pooling bound the variance from below before the square root, or cut silence away",
    )


def dead_dimensions(embedded: Matrix) -> Finding:
    """Whether some of the dimensions (N, D) never change."""
    spread, size = embedded.std(axis=0), np.sqrt((embedded**2).mean())
    dead = np.flatnonzero(spread <= 1e-5 * size)
    if not len(dead):
        return Finding("dimensions", fact=f"{embedded.shape[1]}")
    places = ", ".join(map(str, dead[:5].tolist())) + (", ..." if len(dead) > 5 else "")
    return Finding(
        "dimensions",
        f"{len(dead)} of {embedded.shape[1]} have one value for all utterances ({places})",
        "check that it is the right output, with its weights loaded; leave such dimensions out",
    )


def _shortest(model: SpeakerModel, cuts: Sequence[MonoCut]) -> Finding:
    longest = max(cuts, key=lambda cut: cut.duration)
    reason = ""
    for seconds in SECONDS:
        try:
            found = embed_alone(model, [model.read(longest.truncate(duration=seconds))])
        except Exception as error:  # of any library
            reason = first_line(error)
            continue
        if np.isfinite(found).all():
            return Finding("shortest speech", fact=f"{seconds:g} s")
        reason = NOT_FINITE
    return Finding(
        "shortest speech",
        f"none of {SECONDS[-1]:g} s is embedded ({reason})",
        f"check its input, and leave shorter utterances out ({SKIPPING})",
    )


def _agreement(embedded: Matrix, wanted: Matrix, variants: Mapping[str, Matrix]) -> Finding:
    """Whether the embeddings are the original's, and with which settings they would be."""
    check = "original"
    if embedded.shape != wanted.shape:
        return Finding(
            check,
            f"{embedded.shape[1]} dimensions, and {wanted.shape[1]} of the original",
            "export the same output",
        )
    cosine = _agree(embedded, wanted)
    if cosine >= AGREES:
        return Finding(check, fact=f"mean cosine {cosine:.5f}")
    best, name = _best(variants, lambda found: _agree(found, wanted), cosine)
    fault = f"mean cosine with the original {cosine:.3f}"
    if name and best >= AGREES:
        return Finding(check, fault, f"set {name}, which gives {best:.5f}")
    nearest = f" (nearest: {name}, {best:.3f})" if name else ""
    return Finding(
        check, fault, f"no single setting of scale, mean_norm or window gives it{nearest}"
    )


def _best(
    variants: Mapping[str, Matrix], measure: Callable[[Matrix], float], own: float
) -> tuple[float, str]:
    """The highest measure of other settings, and which; `own` and "" where none is above that."""
    measured = [(measure(found), label) for label, found in variants.items()]
    return max([(own, ""), *measured], key=itemgetter(0))


def _agree(a: Matrix, b: Matrix) -> float:
    """Mean cosine about the original's mean: what all utterances share would hide differences."""
    a, b = a - b.mean(axis=0), b - b.mean(axis=0)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(axis=1) / norms).mean())


def _separation(
    embedded: Matrix, speakers: Sequence[str], variants: Mapping[str, Matrix]
) -> Finding:
    """Whether other features tell the speakers apart better."""
    check = "speakers"
    if obstacle := pairs_fault(speakers):
        return Finding(check, obstacle=obstacle)
    own = separation(embedded, speakers)
    fact = f"cosines of one speaker and of two lie {own:.2f} standard deviations apart"
    best, name = _best(variants, lambda found: separation(found, speakers), own)
    if best > max(own + BETTER, USEFUL):
        return Finding(check, fact, f"set {name}, with which it is {best:.2f}")
    return Finding(check, fact=fact)


def pairs_fault(speakers: Sequence[str]) -> str | None:
    """Why cosines of one speaker say too little beside those of two; None where they do not.

    Args:
        speakers: of each utterance.
    """
    counts = Counter(speakers)
    if len(counts) < FEWEST_SPEAKERS:
        return f"there are fewer than {FEWEST_SPEAKERS} speakers"
    if sum(count * (count - 1) // 2 for count in counts.values()) < FEWEST_PAIRS:
        return f"fewer than {FEWEST_PAIRS} pairs of utterances have the same speaker"
    return None


def separation(embedded: Matrix, speakers: Sequence[str]) -> float:
    """How far cosines of one speaker and of two lie apart, in their pooled standard deviation.

    The cosines are those about the mean of all utterances.

    Args:
        embedded: (N, D).
        speakers: of each row; see `pairs_fault`.
    """
    centered = embedded - embedded.mean(axis=0)
    unit = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), 1)
    cosines = (unit[first] * unit[second]).sum(axis=1)
    names = np.asarray(speakers)
    same = names[first] == names[second]
    of_one, of_two = cosines[same], cosines[~same]
    pooled = np.sqrt((of_one.var() + of_two.var()) / 2)
    return float((of_one.mean() - of_two.mean()) / max(pooled, 1e-12))
