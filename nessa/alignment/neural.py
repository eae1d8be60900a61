"""NESSA: two light networks, trained after the fact, into one shared space (arXiv 2401.12440).

The paper's abstract is all we know of its layers and losses; the choices below are ours.
Symbols as in the method: x (Dx) enrollment, y (Dy) runtime embedding, f and g the two networks,

    z = normalize(P w + r(w)),   w = W c,   c = normalize(normalize(x) - mean),

W a whitening, P a linear map that starts as canonical correlation analysis, r a small MLP that
starts at zero. A batch holds P speakers x K utterances; the K are split at random into an
enrollment part, averaged to a profile in its own model's space, and a runtime part, so that an
utterance is never on both sides. The loss is supervised contrastive, both ways. Which model gives
the profiles is drawn for every batch: the space serves both update directions, and galleries in
which both models' profiles meet.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from scipy.linalg import svd
from torch import Tensor, nn

from nessa.alignment.base import DevSet
from nessa.alignment.config import NeuralConfig
from nessa.alignment.covariance import between_utterances, least_squares, whitening
from nessa.alignment.networks import DEVICE, Centering, NetworkAligner, SideNetwork
from nessa.alignment.table import AlignTable
from nessa.alignment.views import SIDES, Labels, Mapped, Matrix, Rows, Side, centered, fit_mean
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.roc import eer
from nessa.schedule import learning_rate
from nessa.schema import explain
from nessa.scoring.cosine import cosine_scores

INITIAL_SCALE = 15.0  # of the cosines in the loss; learned
SMALL_START = 1e-2  # of dimensions beyond the rank of the start of P


class NeuralAligner(NetworkAligner):
    """NESSA.

    Args:
        seed: of initialization and batches.
        settings: the fields of `nessa.alignment.config.NeuralConfig`. Mode "shared" trains f and
            g; "to-enroll" keeps f = centering and trains g into the enrollment model's space;
            "to-runtime" the reverse.

    Raises:
        InputError: an unknown setting, or a value that it cannot have.

    Updates are independent: `fit(..., freeze="enroll")` on a fitted aligner keeps f to the last
    bit, so that stored, mapped profiles stay valid, and trains g for a new runtime model, or for
    a third one that joins the space. `freeze="runtime"` is the reverse.
    """

    kind = "neural"
    by_rows = True
    KEPT_BY_MODE: ClassVar[dict[str, Side]] = {"to-enroll": "enroll", "to-runtime": "runtime"}

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        super().__init__()
        self.seed = seed
        try:
            self.config = NeuralConfig(**settings)
        except ValidationError as error:
            raise InputError("; ".join(explain(error, NeuralConfig))) from None
        self.hidden_dim, self.dropout = self.config.hidden_dim, self.config.dropout
        self._frozen: Side | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """{parameter of `__init__`: value}."""
        return {"seed": self.seed, **self.config.model_dump()}

    def fit(
        self,
        enroll: Embeddings,
        runtime: Embeddings,
        speakers: Mapping[str, str],
        dev: DevSet | None = None,
        freeze: Side | None = None,
    ) -> Self:
        """Fit to the align set; see `Aligner.fit`.

        Args:
            enroll, runtime, speakers, dev: as there.
            freeze: the side whose network stays as it is; this aligner must be fitted already.

        Raises:
            InputError: as there; or there is nothing to freeze, or the embeddings of the frozen
                side are of another model than its network was fitted on.
        """
        return self.fit_table(AlignTable.of(enroll, runtime, speakers), dev, freeze)

    def fit_table(
        self, table: AlignTable, dev: DevSet | None = None, freeze: Side | None = None
    ) -> Self:
        """Fit to an align set that may be larger than memory; see `fit`."""
        if freeze is not None and not self.modules:
            raise InputError(f"freeze={freeze!r}: nothing is fitted yet; load an aligner first")
        if freeze is not None:
            self.check_stamp(freeze, table.stamps[SIDES.index(freeze)])
        self._frozen = freeze
        return super().fit_table(table, dev)

    def _fit(self, enroll: Rows, runtime: Rows, labels: Labels, dev: DevSet | None) -> None:
        torch.manual_seed(self.seed)
        modules = self.initial_modules(enroll, runtime, labels)
        training = Training(self.config, modules, (enroll, runtime), labels, self.seed)
        steps, interval = self.config.steps, self.config.evaluate_every
        self.train_modules(modules, training.step, steps, interval, dev)

    def initial_modules(self, enroll: Rows, runtime: Rows, labels: Labels) -> dict[Side, nn.Module]:
        """The two sides as training sets out from them: views (N, Dx), (N, Dy), labels (N,)."""
        views: dict[Side, Rows] = {"enroll": enroll, "runtime": runtime}
        means = {side: fit_mean(view) for side, view in views.items()}
        center = {side: centered(view, means[side]) for side, view in views.items()}
        kept = self._frozen or self.KEPT_BY_MODE.get(self.config.mode)
        trained = [side for side in SIDES if side != kept]
        shrinkage = self.config.whitening_shrinkage
        whitenings = {side: whitening(center[side], shrinkage) for side in trained}

        def network(side: Side, start: Matrix) -> SideNetwork:
            return self.new_network(means[side], whitenings[side], start)

        if kept is None:
            rank = None if self.config.start == "cca" else 0
            cross = between_utterances(center["enroll"], center["runtime"], labels)
            white = whitenings["enroll"].T @ cross @ whitenings["runtime"]
            pair = shared_start(white, self.config.dim, rank)
            return {side: network(side, start) for side, start in zip(SIDES, pair, strict=True)}
        if self._frozen is None:
            self.modules[kept] = Centering(torch.from_numpy(means[kept]))
        modules = {kept: self.modules[kept].requires_grad_(False)}
        target = Mapped(views[kept], partial(self._map, side=kept))
        (side,) = trained  # starts as a regression onto the other
        modules[side] = network(side, least_squares(center[side], whitenings[side], target))
        return {side: modules[side] for side in SIDES}

    def keeps(self, side: Side) -> bool:
        """Whether fitting leaves a side as it is: the frozen one."""
        return side == self._frozen

    def _mirrored_settings(self) -> dict[str, Any]:
        other = {"to-enroll": "to-runtime", "to-runtime": "to-enroll"}
        mode = self.config.mode
        return self.settings | {"mode": other.get(mode, mode)}

    def dev_eer(self, dev: DevSet) -> float:
        """Mean EER of both directions, since the space serves both."""
        assert dev.trials.labels is not None
        x, y = self.map_views(dev.enroll, dev.runtime)
        scores = cosine_scores(x, y, dev.trials), cosine_scores(y, x, dev.trials)
        return float(np.mean([eer(s, dev.trials.labels) for s in scores]))


def shared_start(
    cross: npt.NDArray[np.float64], dim: int, rank: int | None = None
) -> tuple[Matrix, Matrix]:
    """Start of P on both sides: where the views are white, canonical correlation analysis.

    With the SVD U R V^T of the whitened views' cross-covariance between different utterances of
    a speaker, P starts as U R^1/2 and V R^1/2, with R relative to its largest value: NESSA sets
    out from the best of the linear competitors; see `CCAAligner`.

    Args:
        cross: that cross-covariance, (Dx, Dy).
        dim: D.
        rank: canonical directions that are taken, at most min(D, Dx, Dy), which is the default;
            the other dimensions start small and random.

    Returns:
        (Dx, D) and (Dy, D).
    """
    u, r, vt = svd(cross, full_matrices=False)
    rank = min(dim, len(r)) if rank is None else rank
    rng = np.random.default_rng(0)
    starts = []
    for rotation in (u, vt.T):
        start = SMALL_START * rng.standard_normal((len(rotation), dim)) / np.sqrt(len(rotation))
        start[:, :rank] = rotation[:, :rank] * np.sqrt(r[:rank] / r[0])
        starts.append(start.astype(np.float32))
    return starts[0], starts[1]


class Training:
    """The align set on the device, the optimizer, and one step.

    Args:
        config: of the training.
        modules: the two sides at their start.
        views: of the align set, (N, Dx), (N, Dy).
        labels: speaker of each row.
        seed: of the batches.
    """

    def __init__(
        self,
        config: NeuralConfig,
        modules: dict[Side, nn.Module],
        views: tuple[Rows, Rows],
        labels: Labels,
        seed: int,
    ) -> None:
        self.config = config
        self.sides = [
            (modules[side].to(DEVICE), _gathering(view))
            for side, view in zip(SIDES, views, strict=True)
        ]
        self.speakers = SpeakerBatches(labels)
        self.rng = np.random.default_rng(seed)
        self.log_scale = nn.Parameter(torch.tensor(INITIAL_SCALE, device=DEVICE).log())
        weights = [w for m in modules.values() for w in m.parameters() if w.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": weights, "weight_decay": config.weight_decay},
            {"params": [self.log_scale], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, fused=True)

    def step(self, step: int) -> float:
        """Take step 0, 1, ... and give its loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.learning_rate)
        rows = self.speakers.draw(
            config.speakers_per_batch, config.utterances_per_speaker, self.rng
        )  # (P, K)
        for module, _ in self.sides:
            # A frozen network is trained against as it will be used: without dropout.
            module.train(any(weight.requires_grad for weight in module.parameters()))
        loss = self._loss(rows)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def _loss(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """Profiles of one side against utterances of the other; `rows` (P, K)."""
        speakers, k = rows.shape
        size = profile_size(k, self.rng)
        order = self.rng.integers(2)
        (enroll, x), (runtime, y) = self.sides[order], self.sides[1 - order]
        profiles = enroll(x(rows[:, :size].ravel()).unflatten(0, (speakers, size)).mean(dim=1))
        tests = runtime(y(rows[:, size:].ravel()))  # (P * R, D); profiles (P, D)
        similarity = (self.log_scale.exp() * profiles) @ tests.T  # (P, P * R)
        return supervised_contrastive(similarity.unflatten(1, (speakers, -1)))


def _gathering(view: Rows) -> Callable[[npt.NDArray[np.int64]], Tensor]:
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
    """

    def __init__(self, labels: Labels) -> None:
        sorted_already = bool((labels[1:] >= labels[:-1]).all())
        self._order = None if sorted_already else np.argsort(labels, kind="stable")
        self._counts = np.bincount(labels)
        self._starts = np.cumsum(self._counts) - self._counts
        self._usable = np.flatnonzero(self._counts >= 2)  # one utterance cannot be on both sides

    def draw(
        self, speakers: int, utterances: int, rng: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """Rows of P speakers x K utterances, none twice; K at most the fewest that one has."""
        chosen = rng.choice(self._usable, min(speakers, len(self._usable)), replace=False)
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
        similarity: scaled cosines of each speaker's profile with each speaker's R utterances,
            shape (P, P, R).

    Returns:
        The mean negative log-probability of a profile's own utterances among all utterances, plus
        that of an utterance's own profile among all profiles.
    """
    among_utterances = similarity.flatten(1).log_softmax(dim=1).view_as(similarity)
    among_profiles = similarity.log_softmax(dim=0)
    own = [p.diagonal(dim1=0, dim2=1).mean() for p in (among_utterances, among_profiles)]
    return -(own[0] + own[1])
