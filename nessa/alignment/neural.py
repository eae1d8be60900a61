"""NESSA: two light networks, trained after the fact, into one shared space (arXiv 2401.12440).

The paper's abstract is all we know of its layers and losses; the choices below are ours.
Symbols as in the method: x (Dx) enrollment, y (Dy) runtime embedding, f and g the two networks,

    z = P w + k r_z(w),   u = z Q z^T + r_u(w),   w = W c,   c = normalize(normalize(x) - mean),

W a whitening, P and Q a linear map and a quadratic form that start as two-view PLDA, r a small MLP
that starts at zero. A trial's score, z_x . z_y + u_x + u_y, is up to a constant its natural-log
likelihood ratio; see `networks.RatioNetwork`. Where CCA or regression is the better start by dev
EER, or the cosine is asked for, z has unit length and u is 0; see `networks.SideNetwork`.

A batch holds P speakers x K utterances; the K are split at random into an enrollment part,
averaged to a profile in its own model's space, and a runtime part, so that an utterance is never on
both sides. The loss is supervised contrastive, both ways. Which model gives the profiles is drawn
for every batch: the space serves both update directions, and galleries in which both models'
profiles meet.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from nessa.alignment.config import NeuralConfig
from nessa.alignment.covariance import cross_product, least_squares, whitening
from nessa.alignment.dev import DevSet, dev_errors
from nessa.alignment.networks import (
    DEVICE,
    ROWS_PER_BLOCK,
    Centering,
    NetworkAligner,
    RatioNetwork,
)
from nessa.alignment.starts import (
    Start,
    Statistics,
    both_ways_eer,
    both_ways_scores,
    choose_start,
    find_joins,
    find_starts,
    first_start,
    random_start,
)
from nessa.alignment.table import AlignTable
from nessa.alignment.views import (
    SIDES,
    Floats,
    Labels,
    Mapped,
    Matrix,
    Rows,
    Side,
    blocks,
    center,
    centered,
    fit_mean,
)
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.metrics.bootstrap import difference, mean_estimate
from nessa.schedule import learning_rate
from nessa.schema import explain

log = logging.getLogger(__name__)

INITIAL_SCALE = 15.0  # of the cosines in the loss; learned
# Of the learning rate, for P and Q of a ratio, which start where they are nearly right.
START_RATE = 0.1
STARTED = ("linear.weight", "quadratic")
CONFIDENCE = 0.8  # training is kept where it lowers the dev EER in this share of the draws
MARGIN = 1.25  # by which the radius exceeds the longest vector of the align set


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
        self.hidden_dim = self.config.hidden_dim
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
        given = self.config.dropout
        self.dropout = dropout_for(int(labels.max()) + 1) if given is None else given
        modules = self.initial_modules(enroll, runtime, labels, dev)
        start = copy.deepcopy(modules)
        training = Training(self.config, modules, (enroll, runtime), labels, self.seed)
        steps, interval = self.config.steps, self.config.evaluate_every
        kept = self.train_modules(modules, training.step, steps, interval, dev)
        if dev is not None and kept and not self._improves_on(start, dev):
            log.info("the start is kept: on dev, training does not improve it beyond noise")
            self._set_modules(start)
            kept = 0
        self.fitting["step"] = kept
        self._set_lengths({"enroll": enroll, "runtime": runtime})

    def initial_modules(
        self, enroll: Rows, runtime: Rows, labels: Labels, dev: DevSet | None = None
    ) -> dict[Side, nn.Module]:
        """The two sides as training sets out from them: views (N, Dx), (N, Dy), labels (N,)."""
        views: dict[Side, Rows] = {"enroll": enroll, "runtime": runtime}
        means = {side: fit_mean(view) for side, view in views.items()}
        around = {side: centered(view, means[side]) for side, view in views.items()}
        kept = self._frozen or self.KEPT_BY_MODE.get(self.config.mode)
        trained = [side for side in SIDES if side != kept]
        shrinkage = self.config.whitening_shrinkage
        whitenings = {side: whitening(around[side], shrinkage) for side in trained}
        if kept is None:
            start = self._start(around["enroll"], around["runtime"], labels, means, dev)
            self.fitting["start"] = start.label
            return {
                side: self._started(around[side], means[side], whitenings[side], start, place)
                for place, side in enumerate(SIDES)
            }
        if self._frozen is None:
            self.modules[kept] = Centering(torch.from_numpy(means[kept]))
        module = self.modules[kept].requires_grad_(False)
        target = Mapped(views[kept], lambda rows: _statistics(module, rows)[0])
        (side,) = trained
        given = means[side], whitenings[side]
        if isinstance(module, RatioNetwork):
            join = self._join(module, target, around[side], labels, means[side], dev)
            self.fitting["start"] = join.label
            joined = self._started(around[side], *given, join, SIDES.index(side))
        else:  # starts as a regression onto the other
            joined = self.new_network(*given, least_squares(around[side], given[1], target))
        modules: dict[Side, nn.Module] = {kept: module, side: joined}
        return {side: modules[side] for side in SIDES}

    def _join(
        self,
        kept: RatioNetwork,
        target: Rows,
        joining: Rows,
        labels: Labels,
        mean: Matrix,
        dev: DevSet | None,
    ) -> Start:
        """The map of a centered view that joins the z of a side that stays as it is."""
        candidates = find_joins(target, joining, labels)
        if dev is None:
            return first_start(candidates)
        pair = dev.enroll, dev.runtime
        place = 0 if self._frozen == "runtime" else 1  # of the side that joins
        stays = _statistics(kept, pair[1 - place].matrix)
        x = center(pair[place].matrix, mean)

        def statistics(start: Start) -> tuple[Statistics, Statistics]:
            own = start.statistics(x, place)
            return (own, stays) if place == 0 else (stays, own)

        return choose_start(candidates, statistics, dev)

    def _start(
        self,
        enroll: Rows,
        runtime: Rows,
        labels: Labels,
        means: Mapping[Side, Matrix],
        dev: DevSet | None,
    ) -> Start:
        """The maps of both sides that training sets out from, of centered views."""
        if self.config.start == "random":
            return random_start(enroll.shape[1], runtime.shape[1], self.config)
        candidates = find_starts(enroll, runtime, labels, self.config)
        if dev is None:
            return first_start(candidates)
        x = center(dev.enroll.matrix, means["enroll"])
        y = center(dev.runtime.matrix, means["runtime"])
        return choose_start(candidates, lambda s: (s.statistics(x, 0), s.statistics(y, 1)), dev)

    def _started(
        self, centered: Rows, mean: Matrix, white: Matrix, start: Start, place: int
    ) -> nn.Module:
        """The network of a side that maps as the start does."""
        projection = np.linalg.solve(white.astype(np.float64), start.maps[place])
        if start.quadratics is None:
            projection /= np.linalg.norm(projection, 2)  # the length of z does not count
            return self.new_network(mean, white, projection.astype(np.float32))
        covariance = cross_product(centered, centered) / len(centered)
        powers = np.einsum("id,ij,jd->d", start.maps[place], covariance, start.maps[place])
        arrays = (projection.astype(np.float32), start.quadratics[place].astype(np.float32))
        return self.new_ratio_network(mean, white, *arrays, float(np.sqrt(powers.mean())))

    def _improves_on(self, start: dict[Side, nn.Module], dev: DevSet) -> bool:
        """Whether the dev EER is lower than the start's in nearly all draws of dev speakers."""
        systems: list[Floats] = []
        for modules in (start, self.modules):
            systems += both_ways_scores(*dev_statistics(modules, dev), dev)
        errors = dev_errors(dev.trials, systems)
        won = difference(mean_estimate(errors[:2]), mean_estimate(errors[2:]))
        share = float(np.mean(won.draws > 0))
        log.info(
            "dev EER of the start less %.4f, above 0 in %.0f %% of the draws of speakers",
            won.value, 100 * share,
        )  # fmt: skip
        return share >= CONFIDENCE

    def _set_lengths(self, views: Mapping[Side, Rows]) -> None:
        """Choose the constants by which a ratio becomes a cosine; see `RatioNetwork`."""
        ratios = {s: m for s, m in self.modules.items() if isinstance(m, RatioNetwork)}
        names = ("offset", "balance", "radius")
        if not ratios:
            return
        if self._frozen is None:
            lengths = [_lengths(module, views[side]) for side, module in ratios.items()]
            squares, values = (np.concatenate(parts) for parts in zip(*lengths, strict=True))
            offset = values.mean()  # one for both sides, whose profiles may share a gallery
            balance = 1 / np.sqrt(max(values.std(), 1e-6))
            longest = (squares + (balance * (values - offset)) ** 2).max() + 1 / balance**2
            constants = [offset, balance, MARGIN * np.sqrt(longest)]
        else:
            constants = [float(getattr(ratios[self._frozen], name)) for name in names]
        for side, module in ratios.items():
            if side != self._frozen:
                for name, value in zip(names, constants, strict=True):
                    getattr(module, name).fill_(float(value))
        self._set_modules(self.modules)

    def keeps(self, side: Side) -> bool:
        """Whether fitting leaves a side as it is: the frozen one."""
        return side == self._frozen

    def _mirrored_settings(self) -> dict[str, Any]:
        other = {"to-enroll": "to-runtime", "to-runtime": "to-enroll"}
        mode = self.config.mode
        return self.settings | {"mode": other.get(mode, mode)}

    def dev_eer(self, dev: DevSet) -> float:
        """Mean EER of both directions, since the space serves both."""
        return both_ways_eer(*dev_statistics(self.modules, dev), dev)


def dropout_for(speakers: int) -> float:
    """The dropout that suits so many align speakers; few are learned by heart without it."""
    return float(np.interp(np.log(speakers), np.log([1000, 2500]), [0.6, 0.2]))


def dev_statistics(modules: Mapping[Side, nn.Module], dev: DevSet) -> tuple[Statistics, Statistics]:
    """z and u of the dev set's two sides."""
    x = _statistics(modules["enroll"], dev.enroll.matrix)
    return x, _statistics(modules["runtime"], dev.runtime.matrix)


def _statistics(module: nn.Module, matrix: Matrix) -> tuple[Matrix, Matrix]:
    """z (N, D) and u (N,) of raw embeddings."""
    module.eval()
    device = next(module.buffers()).device
    with torch.inference_mode():
        parts = [
            module.statistics(block.to(device))
            for block in torch.from_numpy(matrix).split(ROWS_PER_BLOCK)
        ]
        z, u = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return z, u


def _lengths(module: RatioNetwork, view: Rows) -> tuple[Floats, Floats]:
    """Squared lengths of z and values of u, each (N,), of a side's align embeddings."""
    squares, values = [], []
    for rows in blocks(len(view)):
        z, u = _statistics(module, view[rows])
        squares.append(np.einsum("nd,nd->n", z, z, dtype=np.float64))
        values.append(u.astype(np.float64))
    return np.concatenate(squares), np.concatenate(values)


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
        ratio = any(isinstance(module, RatioNetwork) for module in modules.values())
        scale = torch.tensor(1.0 if ratio else INITIAL_SCALE, device=DEVICE)
        self.log_scale = nn.Parameter(scale.log())
        named = [(n, w) for m in modules.values() for n, w in m.named_parameters()]
        weights = [(ratio and n in STARTED, w) for n, w in named if w.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [w for started, w in weights if not started], "rate": 1.0},
            {"params": [w for started, w in weights if started], "rate": START_RATE},
            {"params": [self.log_scale], "rate": 1.0},
        ]
        groups[0]["weight_decay"] = config.weight_decay
        groups[1]["weight_decay"] = groups[2]["weight_decay"] = 0.0  # would make ratios small
        self.optimizer = torch.optim.AdamW(groups, fused=True)

    def step(self, step: int) -> float:
        """Take step 0, 1, ... and give its loss."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(step, config.steps, config.learning_rate)
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
        means = x(rows[:, :size].ravel()).unflatten(0, (speakers, size)).mean(dim=1)
        profiles, u = enroll.statistics(means)  # (P, D), (P,)
        tests, v = runtime.statistics(y(rows[:, size:].ravel()))  # (P * R, D), (P * R,)
        similarity = self.log_scale.exp() * (profiles @ tests.T + u[:, None] + v)  # (P, P * R)
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
