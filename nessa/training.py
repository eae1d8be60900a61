"""Training of speaker encoders: seeded, resumable, the same result whenever it is interrupted.

A batch is a function of (seed, step) alone, the learning rate and the margin of the step, and the
checkpoint holds the rest of the state; so a run that was killed ends with the same weights.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nessa.augmentation import Augmenter
from nessa.config import EncoderConfig
from nessa.encoders import build, load_model, save_model
from nessa.errors import InputError
from nessa.features import FeatureExtractor
from nessa.files import atomic_open, digest, read_json, write_json
from nessa.losses import GE2E, AAMSoftmax
from nessa.manifests import CutTable, read_background
from nessa.progress import progress
from nessa.schedule import learning_rate

log = logging.getLogger(__name__)

MARGIN_RAMP = 0.4  # part of the steps in which the margin rises
MAX_GRADIENT_NORM = 5.0
CHECKPOINT = "checkpoint.pt"
STAMP = "training.json"  # what the weights beside it were trained with


class TrainSpeakers:
    """The utterances of each speaker that an encoder is trained on.

    Attributes:
        names: of the speakers, sorted.
        noises, rirs: recordings for the augmentation, or None.
    """

    def __init__(self, data: Path, part: tuple[float, float]) -> None:
        """Read the train set and keep a part of its speakers.

        Args:
            data: the recipe's data folder.
            part: from and to, as fractions of the sorted list of speakers.

        Raises:
            InputError: no manifest, or fewer than two speakers left.
        """
        self._table = CutTable(data, "train")
        cuts_of = dict(zip(self._table.names, self._table.of_speaker(), strict=True))
        first, last = (round(edge * len(cuts_of)) for edge in part)
        if last - first < 2:
            raise InputError(
                f"{data}/manifests: train_part {part} leaves {last - first} of {len(cuts_of)} "
                f"speakers; an encoder needs two or more"
            )
        self.names = sorted(cuts_of)[first:last]
        self._cuts = [cuts_of[name] for name in self.names]
        self.noises, self.rirs = read_background(data, "noise"), read_background(data, "rir")

    def __len__(self) -> int:
        return len(self.names)

    def count(self, speaker: int) -> int:
        """How many utterances a speaker has."""
        return len(self._cuts[speaker])

    def cut(self, speaker: int, index: int) -> MonoCut:
        """One utterance of a speaker."""
        return self._table[self._cuts[speaker][index]]

    def digest(self) -> str:
        """sha256 over which speakers, utterances, noises and rooms there are."""
        sha = hashlib.sha256()
        for indices in self._cuts:
            for index in indices:
                sha.update(self._table.line(index))
        sounds = [[r.id for r in recordings or []] for recordings in (self.noises, self.rirs)]
        return digest([sha.hexdigest(), sounds])


class TrainBatches(Dataset):
    """Step -> (waveforms (P * K, samples), labels (P * K,)), speaker by speaker.

    A speaker played at another speed counts as another speaker, as in Kaldi's recipes.
    """

    def __init__(self, speakers: TrainSpeakers, config: EncoderConfig) -> None:
        self.speakers = speakers
        self.config = config
        self.speeds = config.augmentation.speeds
        rate = config.features.sampling_rate
        self.augment = Augmenter(config.augmentation, speakers.noises, speakers.rirs, rate)
        self.samples = round(config.crop * rate)

    @property
    def classes(self) -> int:
        """Number of speakers, those at other speeds included."""
        return len(self.speakers) * len(self.speeds)

    @property
    def speakers_per_batch(self) -> int:
        """P."""
        return min(self.config.speakers_per_batch, self.classes)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        # Reverberation's Fourier transforms differ in the last bit with the number of threads; a
        # batch must not, whether a worker makes it or not.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._batch(step)
        finally:
            torch.set_num_threads(threads)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.config.seed, step))
        labels = rng.choice(self.classes, self.speakers_per_batch, replace=False)
        waves = [wave for label in labels for wave in self._utterances(int(label), rng)]
        repeated = labels.repeat(self.config.utterances_per_speaker)
        return torch.from_numpy(np.stack(waves)), torch.from_numpy(repeated)

    def _utterances(self, label: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        speaker, speed = divmod(label, len(self.speeds))
        count = self.speakers.count(speaker)
        k = self.config.utterances_per_speaker
        for index in rng.choice(count, k, replace=count < k):
            cut = self.speakers.cut(speaker, int(index))
            yield self.augment(cut, self.samples, self.speeds[speed], rng)


class Criterion(nn.Module):
    """The loss of an encoder's configuration: (embeddings, labels, progress) -> scalar."""

    def __init__(self, config: EncoderConfig, classes: int, speakers_per_batch: int) -> None:
        super().__init__()
        self.speakers_per_batch = speakers_per_batch
        self.loss: nn.Module
        if config.loss.type == "aam":
            self.loss = AAMSoftmax(config.dim, classes, config.loss.margin, config.loss.scale)
        else:
            self.loss = GE2E()

    def forward(self, embeddings: Tensor, labels: Tensor, done: float) -> Tensor:
        """`done`: the part of the training that is over, which sets the margin."""
        if isinstance(self.loss, AAMSoftmax):
            return self.loss(embeddings, labels, ramp=min(1.0, done / MARGIN_RAMP))
        return self.loss(embeddings, self.speakers_per_batch)


def train_encoder(
    config: EncoderConfig, data: Path, output: Path, workers: int = 1, tensorboard: bool = False
) -> None:
    """Train one encoder and save it; carries on from a checkpoint of the same training.

    Args:
        config: architecture, features, loss, schedule.
        data: the recipe's data folder with manifests/train_cuts.jsonl.gz.
        output: receives config.yaml, model.safetensors and training.json.
        workers: processes that load and augment audio.
        tensorboard: also log the loss there, under `output`/tensorboard.

    Raises:
        InputError: no train set, or a loss that is not finite.
    """
    speakers = TrainSpeakers(data, config.train_part)
    stamp = {"config": config.model_dump(mode="json"), "data": speakers.digest()}
    if _already_trained(output, stamp):
        log.info("%s: already trained with these settings; nothing to do", output)
        return
    batches = TrainBatches(speakers, config)
    torch.manual_seed(config.seed)
    run = _Run(config, batches, digest(stamp))
    first = run.resume(output / CHECKPOINT)
    counts = len(speakers), batches.classes, run.parameters()
    log.info("%d speakers, %d classes, %d parameters", *counts)
    writer = _summary_writer(output) if tensorboard else None
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, config.steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    total = progress(loader, total=config.steps, what=f"train {output.name}", done=first)
    for step, (waves, labels) in enumerate(total, start=first):
        loss = run.step(step, waves, labels)
        total.set_postfix(loss=f"{loss:.3f}", refresh=False)
        if writer:
            writer.add_scalar("loss", loss, step)
        if (step + 1) % config.checkpoint_every == 0:
            log.info("step %d: loss %.4f", step + 1, loss)
            run.save(output / CHECKPOINT, step + 1)
    save_model(output, config, run.encoder.eval())
    write_json(output / STAMP, stamp)
    (output / CHECKPOINT).unlink(missing_ok=True)


class _Run:
    """Network, criterion and optimizer of one training, as one thing to step, save and resume."""

    def __init__(self, config: EncoderConfig, batches: TrainBatches, identity: str) -> None:
        self.config, self.identity = config, identity
        self.features = FeatureExtractor(config.features)
        self.encoder = build(config)
        self.criterion = Criterion(config, batches.classes, batches.speakers_per_batch)
        self.weights = [*self.encoder.parameters(), *self.criterion.parameters()]
        self.optimizer = torch.optim.AdamW(self.weights, weight_decay=config.weight_decay)

    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.encoder.parameters())

    def step(self, step: int, waves: Tensor, labels: Tensor) -> float:
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.learning_rate)
        embeddings = self.encoder(self.features(waves))
        loss = self.criterion(embeddings, labels, step / config.steps)
        if not torch.isfinite(loss):
            raise InputError(f"loss is {loss.item()} at step {step}; lower the learning_rate")
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, MAX_GRADIENT_NORM)
        self.optimizer.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        parts: Sequence[str] = ("encoder", "criterion", "optimizer")
        return {part: getattr(self, part).state_dict() for part in parts}

    def save(self, path: Path, step: int) -> None:
        with atomic_open(path, "wb") as file:
            torch.save({"identity": self.identity, "step": step, **self.state()}, file)

    def resume(self, path: Path) -> int:
        """Load the checkpoint where it belongs to this training; returns the next step."""
        if not path.is_file():
            return 0
        checkpoint = torch.load(path, weights_only=True)
        if checkpoint["identity"] != self.identity:
            log.info("%s: of a training with other settings; starting anew", path)
            return 0
        for part in self.state():
            getattr(self, part).load_state_dict(checkpoint[part])
        log.info("%s: going on after step %d", path, checkpoint["step"])
        return checkpoint["step"]


def _already_trained(output: Path, stamp: dict[str, Any]) -> bool:
    if not (output / STAMP).is_file() or read_json(output / STAMP) != stamp:
        return False
    load_model(output)  # raises where the weights are damaged
    return True


def _summary_writer(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard: run `pip install 'nessa[tensorboard]'` first") from None
    return SummaryWriter(str(output / "tensorboard"))
