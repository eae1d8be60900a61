"""NESSA: two light networks, trained after the fact, into one shared space (arXiv 2401.12440).

The paper's abstract is all we know of its layers and losses; the choices below are ours.
Symbols as in the method: x (Dx) enrollment, y (Dy) runtime embedding, f and g the two networks,

    z = normalize(P c + r(c)),   c = length-normalised, centred, length-normalised input,

P a linear map started from the cross-covariance of the two views, r a small MLP that starts at
zero. A batch holds P speakers x K utterances; the K are split at random into an enrollment part,
averaged to a profile in the enrollment model's own space, and a runtime part, so that an
utterance is never on both sides. The loss is supervised contrastive, both ways.
"""

import copy
import logging
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh, svd
from torch import Tensor, nn
from torch.nn import functional

from nessa.alignment.base import Aligner, DevSet, Matrix, checked
from nessa.alignment.preprocessing import center, fit_mean, speaker_means
from nessa.config import AlignerConfig
from nessa.losses import supervised_contrastive
from nessa.metrics import eer
from nessa.scoring import cosine_scores
from nessa.tables import Embeddings
from nessa.training import learning_rate

log = logging.getLogger(__name__)

ROWS_PER_BLOCK = 65536  # of a matrix mapped at once; bounds the memory of the hidden layer
SCALE = 15.0  # start of the learnable scale of the cosines


class SideNetwork(nn.Module):
    """f or g: centred input -> normalize(P c + r(c)).

    Args:
        projection: start of P, shape (D_in, D).
        hidden_dim: width of the MLP r.
        dropout: on its hidden layer, in training.
    """

    def __init__(self, projection: Tensor, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        inputs, outputs = projection.shape
        self.linear = nn.Linear(inputs, outputs, bias=False)
        self.linear.weight.data = projection.T.clone()
        last = nn.Linear(hidden_dim, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.residual = nn.Sequential(
            nn.Linear(inputs, hidden_dim), nn.GELU(), nn.Dropout(dropout), last
        )

    def forward(self, centred: Tensor) -> Tensor:
        """(N, D_in) -> (N, D), unit length."""
        return functional.normalize(self.linear(centred) + self.residual(centred), dim=1)


class NeuralAligner(Aligner):
    """NESSA.

    Args:
        mode: "shared" trains f and g; "to-enroll" keeps f = identity and trains g; "to-runtime"
            keeps g = identity and trains f.
        dim: D of the shared space (in the other modes that of the side that is kept).
        hidden_dim, dropout: of the residual MLPs.
        steps, speakers_per_batch, utterances_per_speaker, learning_rate, weight_decay: training.
        evaluate_every: steps between looks at the dev EER; the best network is kept.
        seed: of initialisation and batches.
    """

    kind = "neural"

    def __init__(self, seed: int = 1, **settings: Any) -> None:
        self.config = AlignerConfig(**{**settings, "seeds": (seed,)})
        super().__init__(seed=seed, **settings)
        self.seed = seed
        self.networks: dict[str, SideNetwork | None] = {}

    # --- fitting ---

    def _fit(
        self, enroll: Matrix, runtime: Matrix, labels: npt.NDArray[np.int64], dev: DevSet | None
    ) -> None:
        torch.manual_seed(self.seed)
        self.arrays = {"enroll_mean": fit_mean(enroll), "runtime_mean": fit_mean(runtime)}
        self.networks = self._initial_networks(enroll, runtime, labels)
        training = _Training(self, enroll, runtime, labels)
        best, best_eer = None, np.inf
        for step in range(self.config.steps):
            loss = training.step(step)
            if (step + 1) % self.config.evaluate_every and step + 1 < self.config.steps:
                continue
            self._keep_weights()
            dev_eer = self._dev_eer(dev) if dev else -step
            log.info("step %d: loss %.4f, dev EER %.4f", step + 1, loss, dev_eer)
            if dev_eer < best_eer:
                best, best_eer = copy.deepcopy(self.arrays), dev_eer
        assert best is not None
        self.arrays = best
        self._load_weights()

    def _initial_networks(
        self, enroll: Matrix, runtime: Matrix, labels: npt.NDArray[np.int64]
    ) -> dict[str, SideNetwork | None]:
        a = center(enroll, self.arrays["enroll_mean"])
        b = center(runtime, self.arrays["runtime_mean"])
        p, q = _whitened_cross_projections(a, b, labels, self.config.dim)
        config = self.config
        make = lambda start: SideNetwork(  # noqa: E731
            torch.from_numpy(start), config.hidden_dim, config.dropout
        )
        return {"enroll": make(p), "runtime": make(q)}

    def _keep_weights(self) -> None:
        """Networks -> arrays."""
        for side, network in self.networks.items():
            if network is not None:
                for name, tensor in network.state_dict().items():
                    self.arrays[f"{side}.{name}"] = tensor.detach().numpy().copy()

    def _load_weights(self) -> None:
        """Arrays -> networks."""
        for side in ("enroll", "runtime"):
            weights = {
                name.removeprefix(f"{side}."): torch.from_numpy(array)
                for name, array in self.arrays.items()
                if name.startswith(f"{side}.")
            }
            network = SideNetwork(weights["linear.weight"].T, self.config.hidden_dim, 0.0)
            network.load_state_dict(weights)
            self.networks[side] = network.eval()

    def _dev_eer(self, dev: DevSet) -> float:
        enroll = Embeddings(dev.enroll.keys, self.map_enroll(dev.enroll.matrix))
        runtime = Embeddings(dev.runtime.keys, self.map_runtime(dev.runtime.matrix))
        assert dev.trials.labels is not None
        return eer(cosine_scores(enroll, runtime, dev.trials), dev.trials.labels)

    # --- mapping ---

    def map_enroll(self, matrix: Matrix) -> Matrix:
        """(N, Dx) -> (N, D)."""
        return self._map(matrix, "enroll")

    def map_runtime(self, matrix: Matrix) -> Matrix:
        """(N, Dy) -> (N, D)."""
        return self._map(matrix, "runtime")

    @torch.inference_mode()
    def _map(self, matrix: Matrix, side: str) -> Matrix:
        mean = self.arrays[f"{side}_mean"]
        network = self.networks[side]
        centred = center(checked(matrix, len(mean), side), mean)
        if network is None:
            return centred
        network.eval()
        blocks = [network(block) for block in torch.from_numpy(centred).split(ROWS_PER_BLOCK)]
        return torch.cat(blocks).numpy()


def _whitened_cross_projections(
    a: Matrix, b: Matrix, labels: npt.NDArray[np.int64], dim: int
) -> tuple[Matrix, Matrix]:
    """Start of P for both sides: whiten within speakers, then cross-covariance SVD of the means.

    Args:
        a, b: centred views (N, Dx), (N, Dy), same rows.
        labels: speaker of each row.
        dim: D; where it exceeds min(Dx, Dy) the rest is random and small.

    Returns:
        (Dx, D) and (Dy, D).
    """
    wa, wb = _within_whitening(a, labels), _within_whitening(b, labels)
    ma, mb = speaker_means(a @ wa, labels), speaker_means(b @ wb, labels)
    u, s, vt = svd(ma.T.astype(np.float64) @ mb / len(ma), full_matrices=False)
    rank = min(dim, len(s))
    rng = np.random.default_rng(0)
    starts = []
    for whitening, rotation in ((wa, u), (wb, vt.T)):
        start = rng.standard_normal((len(whitening), dim)) * 1e-2 / np.sqrt(len(whitening))
        start[:, :rank] = whitening @ rotation[:, :rank] * np.sqrt(s[:rank] / s[0])
        starts.append((start / np.linalg.norm(start, 2)).astype(np.float32))
    return starts[0], starts[1]


def _within_whitening(x: Matrix, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """W (D, D) such that the within-speaker covariance of x W is the identity."""
    residual = x - speaker_means(x, labels)[labels]
    covariance = residual.T.astype(np.float64) @ residual / len(x)
    values, vectors = eigh(covariance)
    floor = 1e-3 * values.mean()
    return vectors / np.sqrt(np.maximum(values, floor))


class _Training:
    """The align set as tensors, the optimizer, and one step."""

    def __init__(
        self,
        aligner: NeuralAligner,
        enroll: Matrix,
        runtime: Matrix,
        labels: npt.NDArray[np.int64],
    ) -> None:
        self.config, self.networks = aligner.config, aligner.networks
        self.rng = np.random.default_rng(aligner.seed)
        self.x = torch.from_numpy(center(enroll, np.zeros(enroll.shape[1], np.float32)))
        self.y = torch.from_numpy(center(runtime, np.zeros(runtime.shape[1], np.float32)))
        self.mx = torch.from_numpy(aligner.arrays["enroll_mean"])
        self.my = torch.from_numpy(aligner.arrays["runtime_mean"])
        self.speakers = _Speakers(labels)
        self.log_scale = nn.Parameter(torch.tensor(float(np.log(SCALE))))
        weights = [w for n in self.networks.values() if n is not None for w in n.parameters()]
        self.optimizer = torch.optim.AdamW(
            [{"params": weights}, {"params": [self.log_scale], "weight_decay": 0.0}],
            weight_decay=self.config.weight_decay,
        )

    def step(self, step: int) -> float:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.learning_rate)
        rows = self.speakers.draw(
            config.speakers_per_batch, config.utterances_per_speaker, self.rng
        )  # (P, K)
        k = rows.shape[1]
        n = int(self.rng.choice([1, 1, 2, max(1, k // 2)]))
        n = min(n, k - 1)
        e, r = torch.from_numpy(rows[:, :n]), torch.from_numpy(rows[:, n:])
        p = len(rows)
        self.networks["enroll"].train(), self.networks["runtime"].train()
        prof = functional.normalize(functional.normalize(self.x[e].mean(1), dim=1) - self.mx, dim=1)
        run = functional.normalize(self.y[r.flatten()] - self.my, dim=1)
        zx = self.networks["enroll"](prof)  # (P, D)
        zy = self.networks["runtime"](run)  # (P*R, D)
        sim = self.log_scale.exp() * zx @ zy.T  # (P, P*R)
        lab = torch.arange(p)
        same = lab[:, None] == lab.repeat_interleave(r.shape[1])[None]
        loss = supervised_contrastive(sim, same) + supervised_contrastive(sim.T, same.T)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class _Speakers:
    """Rows of each speaker, for drawing batches without a loop over speakers."""

    def __init__(self, labels: npt.NDArray[np.int64]) -> None:
        order = np.argsort(labels, kind="stable")
        self.order = order
        self.counts = np.bincount(labels)
        self.starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        self.usable = np.flatnonzero(self.counts >= 2)

    def draw(self, speakers: int, utterances: int, rng: np.random.Generator) -> npt.NDArray:
        """Rows of `speakers` speakers, (P, K) without repetition within a speaker."""
        p = min(speakers, len(self.usable))
        chosen = rng.choice(self.usable, p, replace=False)
        k = min(utterances, int(self.counts[chosen].min()))
        width = int(self.counts[chosen].max())
        keys = rng.random((p, width))
        keys[np.arange(width)[None] >= self.counts[chosen][:, None]] = np.inf
        positions = np.argpartition(keys, k - 1, axis=1)[:, :k]
        return self.order[self.starts[chosen][:, None] + positions]
