"""One step of NESSA's training: batches of speakers, and the losses."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nessa.alignment.config import NeuralConfig
from nessa.alignment.modules import Fusion, RatioNetwork
from nessa.alignment.networks import DEVICE
from nessa.alignment.teaching import Teacher, distillation
from nessa.alignment.views import SIDES, Labels, Rows, Side
from nessa.errors import InputError
from nessa.optimizer import AdamW, learning_rate

log = logging.getLogger(__name__)
INITIAL_SCALE = 15.0  # of the cosines in the loss; learned
# Of the learning rate, for P and Q of a ratio, which start where they are nearly right.
START_RATE = 0.1
STARTED = ("linear.weight", "quadratic")
Gather = Callable[[npt.NDArray[np.int64]], Tensor]  # rows (K,) -> their vectors (K, D)
Network = tuple[nn.Module, Gather]  # of a side, and its embeddings
Vectors = tuple[Tensor, Tensor]  # z and u
Drawn = npt.NDArray[np.int64]  # row numbers
TRIES = 5  # to draw rows of a speaker that share no recording


class Training:
    """The align set on the device, the optimizer, and one step.

    Args:
        config: of the training.
        modules: the two sides at their start.
        views: of the align set, (N, Dx), (N, Dy).
        labels: speaker of each row.
        seed: of the batches.
        recordings: of the rows; see `AlignTable`.
        teachers: of different speakers; none where there is nothing to learn from.
        one_model: whether both views are, so that each with itself teaches nothing more.
    """

    def __init__(
        self,
        config: NeuralConfig,
        modules: dict[Side, nn.Module],
        views: tuple[Rows, Rows],
        labels: Labels,
        seed: int,
        recordings: npt.NDArray[np.int64] | None = None,
        teachers: Sequence[Teacher] = (),
        one_model: bool = False,
    ) -> None:
        self.recordings = recordings
        self.config, self.labels, self.teachers = config, labels, teachers
        speakers, given = learned_speakers(labels), int(labels.max()) + 1
        if speakers < given and not one_model:  # teachers and controls, of the same speakers
            log.warning(
                "%d of %d align speakers have one utterance: NESSA's training leaves them out",
                given - speakers, given,
            )  # fmt: skip
        self._rate = config.learning_rate or rate_for(speakers)
        self._within = 0.0 if one_model else within_for(speakers)
        for teacher in teachers:
            for module in teacher.modules.values():
                module.to(DEVICE).eval().requires_grad_(False)
        self.sides = [
            (modules[side].to(DEVICE), _gathering(view))
            for side, view in zip(SIDES, views, strict=True)
        ]
        self.speakers = SpeakerBatches(
            labels, config.speakers_per_batch, config.utterances_per_speaker
        )
        self.rng = np.random.default_rng(seed)
        ratio = any(isinstance(module, RatioNetwork | Fusion) for module in modules.values())
        scale = torch.tensor(1.0 if ratio else INITIAL_SCALE, device=DEVICE)
        self.log_scale = nn.Parameter(scale.log())
        named = [(n, w) for m in modules.values() for n, w in m.named_parameters()]
        trained = [(n, w) for n, w in named if w.requires_grad]
        started = [w for n, w in trained if ratio and n in STARTED]
        others = [w for n, w in trained if not (ratio and n in STARTED)]
        groups: list[dict[str, Any]] = [
            {"params": others, "rate": 1.0, "weight_decay": config.weight_decay},
            {"params": started, "rate": START_RATE, "weight_decay": 0.0},  # would make ratios small
            {"params": [self.log_scale], "rate": 1.0, "weight_decay": 0.0},
        ]
        self.optimizer = AdamW(groups, fused=True)

    def step(self, step: int) -> float:
        """Take step 0, 1, ... and give its loss."""
        config = self.config
        rate = learning_rate(step, config.steps, self._rate)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * rate
        for module, _ in self.sides:
            # A frozen network is trained against as it will be used: without dropout.
            module.train(any(weight.requires_grad for weight in module.parameters()))
        loss = self._loss(*self._draw())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _draw(self) -> tuple[Drawn, Drawn]:
        """Rows of a batch's profiles (P, S) and of the utterances that they meet (P, R)."""
        speakers = self.speakers.choose(self.rng)
        rows = self.speakers.draw(speakers, self.config.utterances_per_speaker, self.rng)
        size = profile_size(rows.shape[1], self.rng)
        if self.recordings is not None:
            rows = self._kept_apart(rows, speakers, size)
        return rows[:, :size], rows[:, size:]

    def _kept_apart(self, rows: Drawn, speakers: Drawn, size: int) -> Drawn:
        """The same without recordings on both sides: some rows drawn again, or left out."""
        assert self.recordings is not None
        meet = _meet(self.recordings[rows], size)
        for _ in range(TRIES):
            if not meet.any():
                break
            rows[meet] = self.speakers.draw(speakers[meet], rows.shape[1], self.rng)
            meet = _meet(self.recordings[rows], size)
        if meet.all():
            raise InputError(
                f"aligner.utterances_per_speaker: of {rows.shape[1]} utterances of any speaker, a "
                "profile always shares recordings with those that it is compared with; lower it"
            )
        return rows[~meet]

    def _loss(self, enrolled: Drawn, tested: Drawn) -> Tensor:
        """Profiles (P, S) of one side against utterances (P, R) of the other, and of its own."""
        order = self.rng.integers(2)
        scale = self.log_scale.exp()
        pairs = [(order, 1 - order), *(((0, 0), (1, 1)) if self._within else ())]
        profiles = {k: _profiles(self.sides[k], enrolled) for k, _ in pairs}
        tests = {k: _tests(self.sides[k], tested) for _, k in pairs}
        similarity, *alone = (scale * _scores(profiles[j], tests[k]) for j, k in pairs)
        shape = len(enrolled), -1
        loss, *within = (
            supervised_contrastive(s.unflatten(1, shape)) for s in (similarity, *alone)
        )
        loss = loss + self._within * sum(within)
        for teacher in self.teachers:
            loss = loss + self.config.distillation * self._lesson(
                teacher, similarity, enrolled, tested
            )
        return loss

    def _lesson(
        self, teacher: Teacher, similarity: Tensor, enrolled: Drawn, tested: Drawn
    ) -> Tensor:
        """How far a batch's scores (P, P * R) of a teacher's pupils are from its own.

        Times the pupils' share of the batch.
        """
        share = 1.0
        if teacher.pupils is not None:
            kept = np.flatnonzero(teacher.pupils[self.labels[enrolled[:, 0]]])
            share = len(kept) / len(enrolled)
            if not share:
                return similarity.new_zeros(())
            rows = torch.from_numpy(kept).to(DEVICE)
            own = similarity.unflatten(1, (len(enrolled), -1))[rows][:, rows]
            similarity, enrolled, tested = own.flatten(1), enrolled[kept], tested[kept]
        _, view = self.sides[teacher.place]
        with torch.no_grad():
            f, g = ((teacher.modules[side], view) for side in SIDES)
            taught = _scores(_profiles(f, enrolled), _tests(g, tested))
        return share * distillation(similarity, taught)


def learned_speakers(labels: Labels) -> int:
    """How many speakers of rows (N,) have two utterances: one cannot be on both sides.

    Raises:
        InputError: fewer than two, whom nothing is told from.
    """
    count = int((np.bincount(labels) >= 2).sum())
    if count < 2:
        raise InputError(
            f"{'one' if count else 'no'} align speaker has two utterances; NESSA pairs different "
            "ones of each, and needs two such speakers"
        )
    return count


def dropout_for(speakers: int) -> float:
    """The dropout for a number of align speakers; with few, less of it overfits."""
    return float(np.interp(np.log(speakers), np.log([1000, 2500]), [0.6, 0.2]))


def rate_for(speakers: int) -> float:
    """The learning rate for a number of align speakers; with few, a high one does harm."""
    return float(np.interp(np.log(speakers), np.log([200, 1000]), [3e-3, 8e-3]))


def within_for(speakers: int) -> float:
    """The weight of each model's loss with itself, by align speakers; with few, it overfits."""
    return float(np.interp(np.log(speakers), np.log([200, 500]), [0.0, 0.5]))


def _profiles(side: Network, rows: Drawn) -> Vectors:
    """z (P, D) and u (P,) of profiles of some rows (P, K)."""
    network, view = side
    return network.statistics(view(rows.ravel()).unflatten(0, rows.shape).mean(dim=1))


def _tests(side: Network, rows: Drawn) -> Vectors:
    """z (P * R, D) and u (P * R,) of utterances (P, R)."""
    network, view = side
    return network.statistics(view(rows.ravel()))


def _scores(profiles: Vectors, tests: Vectors) -> Tensor:
    """Scores of all profiles with all utterances, (P, P * R)."""
    (x, u), (y, v) = profiles, tests
    return x @ y.T + u[:, None] + v  # (5)


def _meet(recordings: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.bool_]:
    """Whose profile of the first `size` rows has an utterance of the others, (P, K, 2) -> (P,)."""
    profile, others = (part.reshape(len(part), -1) for part in np.split(recordings, [size], axis=1))
    return (profile[:, :, None] == others[:, None, :]).any(axis=(1, 2))


def _gathering(view: Rows) -> Gather:
    """Rows (K,) -> their vectors (K, D) on the device, where the whole matrix is if it is one."""
    if isinstance(view, np.ndarray):
        table = torch.from_numpy(view).to(DEVICE)
        return lambda rows: table[torch.from_numpy(rows).to(DEVICE)]
    return lambda rows: torch.from_numpy(view[rows]).to(DEVICE)


def profile_size(k: int, rng: np.random.Generator) -> int:
    """How many of K utterances form the profile: 1 half of the time, else up to K - 1."""
    return 1 if rng.random() < 0.5 else int(rng.integers(1, k))


class SpeakerBatches:
    """Draws batches of speakers and utterances by index arithmetic.

    Args:
        labels: speaker 0..S-1 of each row, (N,).
        speakers: of a batch, or all of two utterances or more.
        utterances: that each of them has, where there are enough such speakers for a batch.
    """

    def __init__(self, labels: Labels, speakers: int, utterances: int) -> None:
        sorted_already = bool((labels[1:] >= labels[:-1]).all())
        self._order = None if sorted_already else np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels)
        self._starts = np.cumsum(self._counts) - self._counts
        self._usable = np.flatnonzero(self._counts >= 2)  # one utterance cannot be on both sides
        self._size = min(speakers, len(self._usable))
        full = np.flatnonzero(self._counts >= utterances)
        if len(full) >= self._size:
            if len(full) < len(self._usable):
                log.warning(
                    "aligner.utterances_per_speaker: %d of %d align speakers have %d utterances; "
                    "the others are left out of training",
                    len(full), len(self._usable), utterances,
                )  # fmt: skip
            self._usable = full
        else:
            log.warning(
                "aligner.utterances_per_speaker: %d align speakers have %d utterances, a batch has "
                "%d speakers: it takes as few of each as one of them has; lower this, or "
                "aligner.speakers_per_batch",
                len(full), utterances, self._size,
            )  # fmt: skip

    def choose(self, rng: np.random.Generator) -> Drawn:
        """The speakers of a batch (P,)."""
        return rng.choice(self._usable, self._size, replace=False)

    def draw(self, chosen: Drawn, utterances: int, rng: np.random.Generator) -> Drawn:
        """Rows of P speakers x K utterances, none twice; K at most the fewest that one has."""
        counts = self._counts[chosen]
        k = min(utterances, counts.min())
        positions = np.empty((len(chosen), k), np.int64)
        for drawn in range(k):
            # The n-th of those that are left: past each earlier one that is not behind it.
            position = (rng.random(len(chosen)) * (counts - drawn)).astype(np.int64)
            for earlier in np.sort(positions[:, :drawn], axis=1).T:
                position += position >= earlier
            positions[:, drawn] = position
        rows = self._starts[chosen][:, None] + positions
        return rows if self._order is None else self._order[rows]


def supervised_contrastive(similarity: Tensor) -> Tensor:
    """Supervised contrastive loss (arXiv 2004.11362, L_out), profiles against utterances and back.

    Args:
        similarity: scaled scores of each speaker's profile with each speaker's R utterances,
            shape (P, P, R).

    Returns:
        The mean negative log-probability of a profile's own utterances among all utterances, plus
        that of an utterance's own profile among all profiles.
    """
    among_utterances = similarity.flatten(1).log_softmax(dim=1).view_as(similarity)
    among_profiles = similarity.log_softmax(dim=0)
    own = [p.diagonal(dim1=0, dim2=1).mean() for p in (among_utterances, among_profiles)]
    return -(own[0] + own[1])
