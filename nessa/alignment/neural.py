"""NESSA: two light networks, trained after the fact, into one shared space (arXiv 2401.12440).

The paper's abstract is all we know of its layers and losses; the choices below are ours.
Symbols as in the method: x (Dx) enrollment, y (Dy) runtime embedding, f and g the two networks,

    c = normalize(normalize(x) - mean)  (1),   w = W c  (2),
    z = P w + k r_z(w)  (3),   u = z Q z^T + r_u(w)  (4),

W a whitening, P and Q a linear map and a quadratic form that start as two-view PLDA, r a small MLP
that starts at zero. A trial's score, z_x . z_y + u_x + u_y (5), is up to a constant its natural-log
likelihood ratio; see `modules.RatioNetwork`. Beside it stand PLDA's ratios of products of
coordinates (7) and of their regressions onto the other model (8), see `kernel`, and the cosines of
CCA and of regression both ways, which few align speakers or strong models may need, weighed by
logistic regression on dev (6); see `modules.Fusion`. Where the cosine is asked for, there is one
part, whose z has unit length, and u is 0; see `modules.SideNetwork`.

A batch holds P speakers x K utterances; the K are split at random into an enrollment part,
averaged to a profile in its own model's space, and a runtime part, so that an utterance is never on
both sides. The loss is supervised contrastive, both ways. Which model gives the profiles is drawn
for every batch: the space serves both update directions, and galleries in which both models'
profiles meet. Beside it, each model's profiles are told apart by its own utterances too.

A second loss distills: the scores of a batch come close to those of the better model with itself,
which is fitted before; see `teaching`.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import ValidationError
from torch import nn
from torch.random import fork_rng

from nessa.alignment.base import other_side
from nessa.alignment.config import NeuralConfig
from nessa.alignment.covariance import cross_product, least_squares, whitening
from nessa.alignment.dev import DevSet, Statistics, both_ways_eer, both_ways_scores, improves
from nessa.alignment.domains import warn_of_lacking
from nessa.alignment.fusing import fit_weights
from nessa.alignment.kernel import KernelFeatures
from nessa.alignment.modules import Centering, Fusion, KernelNetwork
from nessa.alignment.networks import ROWS_AT_ONCE, NetworkAligner
from nessa.alignment.outliers import MOST_STAMPED
from nessa.alignment.starts import Start, choose_start, find_joins, find_starts, random_start
from nessa.alignment.table import AlignTable
from nessa.alignment.teaching import FEWEST_HALVED, Teacher, better_model, halves
from nessa.alignment.training import Training, dropout_for, learned_speakers
from nessa.alignment.views import (
    SIDES,
    Center,
    Chosen,
    Floats,
    Labels,
    Mapped,
    Matrix,
    Rows,
    Side,
    blocks,
)
from nessa.errors import InputError
from nessa.kaldi.directions import SAFE
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import names_model
from nessa.schema import explain

log = logging.getLogger(__name__)

JOIN_SCALES = (1.0, 0.7, 0.5, 0.3, 0.2)  # of a ratio beside a side that stays as it was weighed
MARGIN = 1.25  # by which the radius exceeds the longest vector of an align utterance


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
        self._recordings: npt.NDArray[np.int64] | None = None
        self._persons: Labels | None = None

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
        space = None
        if freeze is not None:
            if not self.modules:
                raise InputError(f"freeze={freeze!r}: nothing is fitted yet; load an aligner first")
            self._check_frozen(freeze, table)
            space = self.space()
        self._frozen, self._recordings, self._persons = freeze, table.recordings, table.persons
        super().fit_table(table, dev)
        self.joined = space
        if self.calibration is not None:
            self.calibration = replace(self.calibration, space=space)
        return self

    def _check_frozen(self, side: Side, table: AlignTable) -> None:
        """Refuse embeddings of another model than a side that stays as it is was fitted on.

        Raises:
            InputError: by their stamp or dimension, or as nearly all are unlike its align data; or
                one has no direction.
        """
        place = SIDES.index(side)
        stamp = table.stamps[place]
        if stamp and names_model(stamp.fingerprint):  # vectors of more speakers are known otherwise
            self.check_stamp(side, stamp)
        self._check_dim(side, (table.enroll, table.runtime)[place].shape[1])
        detector = self.detectors.get(side)
        if detector is None:  # of an older version
            return
        view = self._fittable(table, side)  # which names a vector without direction
        far = sum(int((detector.distances(view[rows]) > 1).sum()) for rows in blocks(len(view)))
        if far > MOST_STAMPED * len(view):
            raise InputError(
                f"{far} of {len(view)} {side} embeddings are unlike those that the side was fitted "
                "on that stays as it is; give those of its model, the sides not swapped"
            )

    def _fittable(self, table: AlignTable, side: Side) -> Rows:
        """See `Aligner._fittable`; where lengths count, none is changed in silence."""
        fittable = super()._fittable(table, side)
        if self.config.length_power and fittable is not getattr(table, side):
            raise InputError(
                f"aligner.length_power: {side} embeddings of the align set have lengths outside "
                f"{SAFE[0]:.0e} to {SAFE[1]:.0e}, which cannot count; divide all by one number, or "
                "set it to 0"
            )
        return fittable

    def _fit(self, enroll: Rows, runtime: Rows, labels: Labels, dev: DevSet | None) -> None:
        if self._frozen:
            warn_of_lacking(self.shifts, self._frozen)
        torch.manual_seed(self.seed)
        given = self.config.dropout
        self.dropout = dropout_for(learned_speakers(labels)) if given is None else given
        names, (trained, *others) = self.initial_modules(enroll, runtime, labels, dev)
        torch.manual_seed(self.seed)  # dropout is the same, whatever parts there are beside
        start = copy.deepcopy(trained)
        views = enroll, runtime
        one_model = dev is not None and np.array_equal(dev.enroll.matrix, dev.runtime.matrix)
        teachers = [] if dev is None or one_model else self._teachers(views, labels, dev)
        training = Training(
            self.config, trained, views, labels, self.seed, self._recordings, teachers,
            one_model=one_model,
        )  # fmt: skip
        steps, interval = self.config.steps, self.config.evaluate_every
        kept = self.train_modules(trained, training.step, steps, interval, dev)
        if (
            dev is not None
            and kept
            and not improves(dev, dev_statistics(start, dev), dev_statistics(self.modules, dev))
        ):
            log.info("the start is kept: on dev, training does not improve it beyond noise")
            self._set_modules(start)
            kept = 0
        self.fitting["step"] = kept
        if self._gives_ratios():
            self._fuse(names, [self.modules, *others], dev)
            self._set_lengths({"enroll": enroll, "runtime": runtime})

    def initial_modules(
        self, enroll: Rows, runtime: Rows, labels: Labels, dev: DevSet | None = None
    ) -> tuple[list[str], list[dict[Side, nn.Module]]]:
        """The two sides of each part as training sets out from them; the first part is trained.

        Args:
            enroll, runtime: views (N, Dx), (N, Dy).
            labels: speakers (N,).
            dev: held-out speakers.

        Returns:
            The starts of the parts, where both sides are fitted, and the parts.
        """
        views: dict[Side, Rows] = {"enroll": enroll, "runtime": runtime}
        power = self.config.length_power
        centers = {side: Center.fit(view, power) for side, view in views.items()}
        around = {side: Mapped(view, centers[side].apply) for side, view in views.items()}
        kept = self._frozen or self.KEPT_BY_MODE.get(self.config.mode)
        shrinkage = self.config.whitening_shrinkage
        whitenings = {s: whitening(around[s], shrinkage) for s in SIDES if s != kept}
        if kept is None:
            starts = self._starts(around["enroll"], around["runtime"], labels, centers, dev)
            self.fitting["start"] = starts[0].label
            hidden = [self.hidden_dim, *(0 for _ in starts[1:])]  # none in what is not trained
            return [start.label for start in starts], [
                {
                    s: self._started(around[s], centers[s], whitenings[s], start, place, width)
                    for place, s in enumerate(SIDES)
                }
                for start, width in zip(starts, hidden, strict=True)
            ]
        if self._frozen is None:
            self.modules[kept] = Centering(centers[kept])
        module = self.modules[kept].requires_grad_(False)
        target = Mapped(views[kept], lambda rows: _statistics(module, rows)[0])
        (side,) = whitenings
        given = centers[side], whitenings[side]
        if isinstance(module, Fusion):
            join = self._join(module, target, around[side], labels, centers[side], dev)
            self.fitting["start"] = join.label
            place = SIDES.index(side)
            joined = self._started(around[side], *given, join, place, self.hidden_dim)
        else:  # starts as a regression onto the other
            joined = self.new_network(*given, least_squares(around[side], given[1], target))
        modules: dict[Side, nn.Module] = {kept: module, side: joined}
        return [], [{side: modules[side] for side in SIDES}]

    def _teachers(self, views: tuple[Rows, Rows], labels: Labels, dev: DevSet) -> list[Teacher]:
        """The better model with itself: NESSA of each half of many speakers, PLDA's ratio of few.

        Empty where nothing tells the better model, or the score is no ratio, or a side stays as it
        is.
        """
        free = self._frozen is None and self._gives_ratios()
        if not self.config.distillation or not free:
            return []
        place = better_model(dev)
        if place is None:
            log.info("no teacher: alone, both models have the same dev EER")
            return []
        own, view = (dev.enroll, dev.runtime)[place], views[place]
        alone = replace(dev, enroll=own, runtime=own)
        log.info("teacher: the %s model with itself", SIDES[place])
        counts = np.bincount(labels)
        persons = np.arange(len(counts)) if self._persons is None else self._persons
        if len(np.unique(persons[counts > 1])) < FEWEST_HALVED:
            return [Teacher(self._ratio_alone(view, labels, alone), place)]
        teachers = []
        for half in halves(int(persons.max()) + 1, self.seed):
            pupils = half[persons]  # a copy is of its original's half
            rows = np.flatnonzero(~pupils[labels])
            log.info("teacher of %d speakers, fitted on the others", pupils.sum())
            modules = self._fitted_alone(view, labels, rows, place, alone)
            teachers.append(Teacher(modules, place, pupils))
        return teachers

    def _ratio_alone(self, view: Rows, labels: Labels, dev: DevSet) -> dict[Side, nn.Module]:
        """PLDA's ratio of a model with itself."""
        alone = NeuralAligner(**self.settings | {"start": "plda", "hidden_dim": 0})
        _, (modules,) = alone.initial_modules(view, view, labels, dev)
        return modules

    def _fitted_alone(
        self, view: Rows, labels: Labels, rows: npt.NDArray[np.int64], place: int, dev: DevSet
    ) -> dict[Side, nn.Module]:
        """NESSA of a model with itself, of some rows."""
        model = NeuralAligner(**self.settings)
        if self._recordings is not None:
            model._recordings = self._recordings[rows][:, [place, place]]
        part = view[rows] if isinstance(view, np.ndarray) else Chosen(view, rows)
        _, numbers = np.unique(labels[rows], return_inverse=True)
        with fork_rng(range(torch.cuda.device_count())):
            model._fit(part, part, numbers, dev)
        return model.modules

    def _join(
        self,
        kept: Fusion,
        target: Rows,
        joining: Rows,
        labels: Labels,
        center: Center,
        dev: DevSet | None,
    ) -> Start:
        """The map of a centered view that joins the z of a side that stays as it is."""
        candidates = find_joins(target, joining, labels)
        if dev is None:
            return next(candidates)
        pair = dev.enroll, dev.runtime
        place = 0 if self._frozen == "runtime" else 1  # of the side that joins
        stays = _statistics(kept, pair[1 - place].matrix)
        x = center.apply(pair[place].matrix)

        def statistics(start: Start) -> tuple[Statistics, Statistics]:
            own = start.statistics(x, place)
            return (own, stays) if place == 0 else (stays, own)

        chosen = choose_start(candidates, statistics, dev)
        return choose_start(map(chosen.scaled, JOIN_SCALES), statistics, dev)

    def _starts(
        self,
        enroll: Rows,
        runtime: Rows,
        labels: Labels,
        centers: Mapping[Side, Center],
        dev: DevSet | None,
    ) -> list[Start]:
        """Maps of both sides, of centered views: the one to train, and those to fuse with it."""
        if self.config.start == "random":
            return [random_start(enroll.shape[1], runtime.shape[1], self.config)]
        found = find_starts(enroll, runtime, labels, self.config)
        if self.config.score == "cosine":  # one space, of one aligner
            found = [chain(*found)]
        if dev is None:
            return [next(found[0])]
        x = centers["enroll"].apply(dev.enroll.matrix)
        y = centers["runtime"].apply(dev.runtime.matrix)

        @lru_cache(maxsize=2)  # candidates of one aligner have the same features
        def inputs(features: KernelFeatures | None, place: int) -> Matrix:
            own = (x, y)[place]
            return own if features is None else features.apply(own)

        def statistics(start: Start) -> tuple[Statistics, Statistics]:
            z = [start.statistics(inputs(start.features[n], n), n) for n in (0, 1)]
            return z[0], z[1]

        return [choose_start(candidates, statistics, dev) for candidates in found]

    def _started(
        self,
        centered: Rows,
        center: Center,
        white: Matrix,
        start: Start,
        place: int,
        hidden_dim: int,
    ) -> nn.Module:
        """The network of a side that maps as the start does."""
        if (features := start.features[place]) is not None:
            assert start.quadratics is not None
            folded = features.folded(start.maps[place])
            return KernelNetwork(center, folded, start.quadratics[place])
        projection = np.linalg.solve(white.astype(np.float64), start.maps[place])
        if start.quadratics is None:
            projection /= np.linalg.norm(projection, 2)  # the length of z does not count
            return self.new_network(center, white, projection.astype(np.float32), hidden_dim)
        covariance = cross_product(centered, centered) / len(centered)
        powers = np.einsum("id,ij,jd->d", start.maps[place], covariance, start.maps[place])
        quadratic, spread = start.quadratics[place].astype(np.float32), np.sqrt(powers.mean())
        return self.new_network(
            center, white, projection.astype(np.float32), hidden_dim, quadratic, float(spread)
        )

    def _gives_ratios(self) -> bool:
        """Whether the score is a ratio; of a space that was there before, that decides."""
        if self._frozen is not None:
            return isinstance(self.modules[self._frozen], Fusion)
        return self.config.score == "ratio" and self.config.mode == "shared"

    def _fuse(
        self, names: Sequence[str], parts: Sequence[Mapping[Side, nn.Module]], dev: DevSet | None
    ) -> None:
        """Put the parts that are worth it side by side; a side that stays has them already."""
        weights = {0: 1.0}
        if dev is not None and len(parts) > 1:
            scored = [both_ways_scores(*dev_statistics(part, dev), dev) for part in parts]
            labels = [trials.known_labels for trials, _ in scored[0]]
            weights = fit_weights([[own for _, own in part] for part in scored], labels)
        if 0 not in weights:  # what was trained is left out
            self.fitting["step"] = 0
        if names:
            self.fitting["weights"] = {names[k]: weight for k, weight in weights.items()}
            log.info("weights: %s", self.fitting["weights"])
        sides = {side: [parts[k][side] for k in weights] for side in SIDES}
        self._set_modules(
            {
                side: self.modules[side] if side == self._frozen
                else Fusion(modules, list(weights.values()))
                for side, modules in sides.items()
            }
        )  # fmt: skip

    def _set_lengths(self, views: Mapping[Side, Rows]) -> None:
        """Choose the constants by which a ratio becomes a cosine; see `Fusion`."""
        modules = {side: m for side, m in self.modules.items() if isinstance(m, Fusion)}
        frozen = modules.pop(self._frozen) if self._frozen else None
        lengths = [_lengths(module, views[side]) for side, module in modules.items()]
        squares, values = (np.concatenate(parts) for parts in zip(*lengths, strict=True))
        offset = values.mean()  # one for both sides, whose profiles may share a gallery
        balance = float(frozen.balance) if frozen else 1 / np.sqrt(max(values.std(), 1e-6))
        longest = (squares + (balance * (values - offset)) ** 2).max() + 1 / balance**2
        radius = MARGIN * np.sqrt(longest)
        for module in modules.values():
            for name, value in {"offset": offset, "balance": balance, "radius": radius}.items():
                getattr(module, name).fill_(float(value))
        self._set_modules(self.modules)

    def keeps(self, side: Side) -> bool:
        """Whether fitting leaves a side as it is: the frozen one."""
        return side == self._frozen

    def length_range(self, side: Side) -> tuple[float, float] | None:
        """See `Aligner.length_range`."""
        if not self.config.length_power:
            return None
        own = (n for n in self.arrays if n.startswith(side) and n.endswith("lengths"))
        shortest, longest = self.arrays[next(own)][2:].tolist()
        return shortest, longest

    def mirrored(self) -> Self:
        """See `Aligner.mirrored`; regressions are onto the other side there."""
        other = super().mirrored()
        found = other.fitting = dict(self.fitting)
        if "start" in found:
            found["start"] = other_side(found["start"])
        if "weights" in found:
            found["weights"] = {other_side(n): weight for n, weight in found["weights"].items()}
        return other

    def _mirrored_settings(self) -> dict[str, Any]:
        other = {"to-enroll": "to-runtime", "to-runtime": "to-enroll"}
        mode = self.config.mode
        return self.settings | {"mode": other.get(mode, mode)}

    def dev_eer(self, dev: DevSet) -> float:
        """See `Aligner.dev_eer`; of the scores that the parts give, before they are fused."""
        return both_ways_eer(*dev_statistics(self.modules, dev), dev)


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
            for block in torch.from_numpy(matrix).split(ROWS_AT_ONCE)
        ]
        z, u = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    return z, u


def _lengths(module: Fusion, view: Rows) -> tuple[Floats, Floats]:
    """Squared lengths of z and values of u, each (N,), of a side's align embeddings."""
    squares, values = [], []
    for rows in blocks(len(view)):
        z, u = _statistics(module, view[rows])
        squares.append(np.einsum("nd,nd->n", z, z, dtype=np.float64))
        values.append(u.astype(np.float64))
    return np.concatenate(squares), np.concatenate(values)
