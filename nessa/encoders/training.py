"""Training of speaker encoders: seeded, resumable, the same result whenever it is interrupted.

A batch is a function of (seed, step) alone, as are the learning rate and the margin of the step,
and no layer draws at random (there is no dropout). So no generator and no sampler has a state, and
with what the checkpoint holds a run that was killed ends with the same weights.
"""

import io
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.random import fork_rng
from torch.utils.data import DataLoader

from nessa.encoders.batches import Batch, TrainBatches, TrainSpeakers
from nessa.encoders.checkpoints import damaged, fits, read_checkpoint
from nessa.encoders.config import EncoderConfig
from nessa.encoders.distributed import Processes, join_processes
from nessa.encoders.features import FeatureExtractor
from nessa.encoders.kinds import parse_settings
from nessa.encoders.losses import Criterion
from nessa.encoders.trained import CONFIG, STAMP, WEIGHTS, build, load_trained, save_model
from nessa.errors import InputError, watched_readers
from nessa.files import atomic_open, digest, read_json, write_json
from nessa.optimizer import AdamW, learning_rate
from nessa.progress import progress
from nessa.schema import read_yaml, save_yaml

log = logging.getLogger(__name__)
MAX_GRADIENT_NORM = 5.0
CHECKPOINT = "checkpoint.pt"
LOSSES = "loss.tsv"
# In the stamp: the noises and rooms, whose the utterances are, and whether Lhotse makes up rooms.
# Stamps of before may lack some.
BACKGROUND, SPEAKERS, ROOMS = LATER = "background", "speakers", "made_up_rooms"


def train_encoder(
    config: EncoderConfig, data: Path, output: Path, workers: int = 1, tensorboard: bool = False
) -> None:
    """Train one encoder and save it; resumes from a checkpoint of the same training.

    Started by torchrun, processes train together: `speakers_per_batch` is that of each of them.

    Args:
        config: architecture, features, loss, schedule.
        data: the recipe's data folder with manifests/train_cuts.jsonl.gz.
        output: receives config.yaml, model.safetensors, training.json and loss.tsv.
        workers: processes that load and augment audio.
        tensorboard: also log the loss there, under `output`/tensorboard.

    Raises:
        InputError: no train set, what cannot be read, or a loss that is not finite.
    """
    with join_processes() as processes:
        speakers = TrainSpeakers(data, config.train_part, config.augmentation)
        stamp = {
            "config": _deciding(config.model_dump(mode="json")),
            "data": speakers.digest(),
            BACKGROUND: speakers.background_digest(),
            SPEAKERS: speakers.speakers_digest(),
            ROOMS: speakers.makes_rooms,
        }
        if _already_trained(output, stamp, config):
            if processes.first and not _describes(output / CONFIG, config):
                save_yaml(output / CONFIG, config)  # a pretrained model in between left its own
            log.info("%s: already trained with these settings; nothing to do", output)
            return
        # Other batches make another training, but its result serves as well.
        training = Training(config, speakers, processes, digest([stamp, processes.size]))
        training.resume(output / CHECKPOINT)
        _run(training, output, workers, tensorboard)
        if processes.first:
            (output / STAMP).unlink(missing_ok=True)  # of the weights that are replaced now
            training.write_losses(output / LOSSES)
            save_model(output, config, training.result().eval())
            write_json(output / STAMP, stamp)
            (output / CHECKPOINT).unlink(missing_ok=True)


def _run(training: "Training", output: Path, workers: int, tensorboard: bool) -> None:
    """All steps that are left, with a word about them now and then."""
    first = training.processes.first
    writer = _summary_writer(output) if tensorboard and first else None
    done = len(training.losses)
    what = f"train {output.name}"
    with progress(total=training.steps, what=what, done=done, silent=not first) as bar:
        for loss in training.run(workers):
            step = len(training.losses)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()
            if writer:
                writer.add_scalar("loss", loss, step)
            if step % training.config.checkpoint_every == 0 and first:
                log.info("step %d: loss %.6f", step, loss)
                training.save(output / CHECKPOINT)
                training.write_losses(output / LOSSES)


def phases(config: EncoderConfig) -> list[EncoderConfig]:
    """The settings of each phase of a training: the main one, and fine-tuning where it is wanted.

    Fine-tuning goes on without other speeds and without the inter-top-k penalty, as Zhao et al.
    (arXiv 2110.05042) do, and with the margin in full from its first step.
    """
    if config.fine_tuning is None:
        return [config]
    tuning = config.fine_tuning
    loss = {"margin": tuning.margin, "margin_ramp": (0.0, 0.0), "top_k": 0}
    changes = {
        **tuning.model_dump(include={"steps", "crop", "speakers_per_batch", "learning_rate"}),
        "loss": config.loss.model_copy(update=loss),
        "augmentation": config.augmentation.model_copy(update={"speeds": (1.0,)}),
    }
    return [config, config.model_copy(update=changes)]


class Training:
    """All that changes in a training, as one thing to run, save and resume.

    Args:
        config: of the encoder.
        speakers: that it is trained on.
        processes: that train it together.
        identity: tells this training from others; a checkpoint of another is not taken up.

    Attributes:
        losses: of every step so far.
        steps: of all phases.
    """

    def __init__(
        self, config: EncoderConfig, speakers: TrainSpeakers, processes: Processes, identity: str
    ) -> None:
        self.config, self.processes = config, processes
        self.losses: list[float] = []
        self._speakers, self._identity = speakers, identity
        self._phases = phases(config)
        self.steps = sum(phase.steps for phase in self._phases)
        self._features = FeatureExtractor(config.features).to(processes.device)
        with _seeded(config.seed):
            encoder = build(config)
            parameters = sum(weight.numel() for weight in encoder.parameters())
            self._encoder = processes.synchronize_norms(encoder.to(processes.device))
            # Buffers as well, or batch normalization would have other statistics than the weights.
            self._average = AveragedModel(self._encoder, use_buffers=True)
            self._phase = _Phase(self._phases[0], self._encoder, speakers, processes)
        classes = self._phase.batches.classes
        log.info("%d speakers, %d classes, %d parameters", len(speakers), classes, parameters)
        self._bf16 = config.precision == "bf16" and processes.device.type == "cuda"
        if config.precision == "bf16" and not self._bf16:
            log.info("no GPU here: float32 in the place of bf16")

    def run(self, workers: int) -> Iterator[float]:
        """Do all steps that are left; yields the loss of each."""
        end = 0
        for index, config in enumerate(self._phases):
            first, end = end, end + config.steps
            if len(self.losses) >= end:
                continue
            self._enter(index)
            for batch in self._load(range(len(self.losses), end), workers):
                yield self._step(len(self.losses) - first, batch)

    def _enter(self, index: int) -> None:
        if self._phase.config != self._phases[index]:
            log.info("fine-tuning for %d steps", self._phases[index].steps)
            with _seeded(self.config.seed):
                self._phase = self._phase.followed_by(self._phases[index])

    def _load(self, steps: range, workers: int) -> Iterable[Batch]:
        loader = DataLoader(
            self._phase.batches,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
        )
        with watched_readers():
            for batch in loader:
                if isinstance(batch, InputError):
                    raise batch
                yield batch

    def _step(self, step: int, batch: Batch) -> float:
        """`step` counts from the beginning of the phase."""
        inputs, labels = (part.to(self.processes.device) for part in batch)
        features = self._features(inputs)
        with torch.autocast(self.processes.device.type, torch.bfloat16, enabled=self._bf16):
            loss = self._phase.loss(features, labels, step)
        mean = self.processes.mean(loss.detach()).item()
        if not torch.isfinite(torch.tensor(mean)):
            where = "" if self._phase.config is self._phases[0] else "fine_tuning."
            at = f"at step {len(self.losses) + 1}"
            raise InputError(f"loss is {mean} {at}; lower {where}learning_rate")
        self._phase.update(loss, step)
        self.losses.append(mean)
        # The last `average` checkpoints, counted from the end.
        before_end, between = divmod(self.steps - len(self.losses), self.config.checkpoint_every)
        if between == 0 and before_end < self.config.average:
            self._average.update_parameters(self._encoder)
        return mean

    def result(self) -> nn.Module:
        """The network to keep."""
        return self._average.module

    def _parts(self) -> dict[str, Any]:
        return {"encoder": self._encoder, "average": self._average, **self._phase.parts()}

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        checkpoint = io.BytesIO()  # written to a full disk, torch.save would hide the reason
        torch.save({"identity": self._identity, "losses": self.losses, **state}, checkpoint)
        with atomic_open(path, "wb") as file:
            file.write(checkpoint.getbuffer())

    def resume(self, path: Path) -> None:
        """Load the checkpoint where there is one that belongs to this training.

        Raises:
            InputError: it is damaged.
        """
        if not path.is_file():
            return
        checkpoint = read_checkpoint(path)
        if checkpoint["identity"] != self._identity:
            log.info("%s: of a training with other settings; starting anew", path)
            return
        self.losses = checkpoint["losses"]
        if len(self.losses) > self._phases[0].steps:
            self._enter(1)
        parts = self._parts()
        for name, part in parts.items():
            if not fits(part, checkpoint.get(name)):
                raise damaged(path, f"{name} is not that of this training")
        for name, part in parts.items():  # what is raised now is not the file's fault
            part.load_state_dict(checkpoint[name])
        log.info("%s: going on after step %d", path, len(self.losses))

    def write_losses(self, path: Path) -> None:
        """Write the loss of every step: `step loss`, tab-separated."""
        with atomic_open(path) as file:
            file.write("step\tloss\n")
            file.writelines(f"{step}\t{x:.9g}\n" for step, x in enumerate(self.losses, start=1))


class _Phase:
    """A part of the training with its own crops, classifier, optimizer and learning rate.

    Attributes:
        config: of the phase.
        batches: that it is trained on.
    """

    def __init__(
        self,
        config: EncoderConfig,
        encoder: nn.Module,
        speakers: TrainSpeakers,
        processes: Processes,
    ) -> None:
        self.config, self.batches = config, TrainBatches(speakers, config, processes)
        self._context = encoder, speakers, processes
        self._criterion = Criterion(
            config, self.batches.classes, self.batches.speakers_per_batch, processes
        ).to(processes.device)
        objective = _Objective(encoder, self._criterion)
        self._weights = list(objective.parameters())
        self._objective = processes.parallel(objective)
        self._optimizer = AdamW(self._weights, weight_decay=config.weight_decay)

    def followed_by(self, config: EncoderConfig) -> "_Phase":
        """The phase that goes on from here, with what its classifier has learnt of speed 1.0."""
        after = _Phase(config, *self._context)
        after._criterion.take_over(self._criterion, self.config.augmentation.speeds)
        return after

    def parts(self) -> dict[str, Any]:
        """What has a state, beside the encoder."""
        return {"criterion": self._criterion, "optimizer": self._optimizer}

    def loss(self, features: Tensor, labels: Tensor, step: int) -> Tensor:
        """Of this process's part of the batch."""
        return self._objective(features, labels, step / self.config.steps)

    def update(self, loss: Tensor, step: int) -> None:
        """One step of the optimizer."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(step, self.config.steps, self.config.learning_rate)
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._weights, MAX_GRADIENT_NORM)
        self._optimizer.step()


class _Objective(nn.Module):
    """Features (B, T, F), labels (B,) -> loss, as one module whose gradients processes share."""

    def __init__(self, encoder: nn.Module, criterion: Criterion) -> None:
        super().__init__()
        self.encoder, self.criterion = encoder, criterion

    def forward(self, features: Tensor, labels: Tensor, done: float) -> Tensor:
        embeddings = self.encoder(features).float()
        # A margin of a few hundredths is lost in the digits of bf16.
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.criterion(embeddings, labels, done)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators meanwhile; the caller's go on as if nothing had been drawn."""
    with fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide the weights: without an average, how often is saved does not."""
    unread = {"checkpoint_every"} if settings.get("average") == 1 else set()
    return {key: value for key, value in settings.items() if key not in unread}


def _already_trained(output: Path, stamp: dict[str, Any], config: EncoderConfig) -> bool:
    if not all((output / name).is_file() for name in (STAMP, WEIGHTS)):
        return False
    try:
        found = read_json(output / STAMP)
    except InputError:  # cut off, as in a copy
        return False
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        return False
    known = {key: stamp[key] for key in LATER} | found
    if known | {"config": _deciding(found["config"])} != stamp:
        return False
    load_trained(output, output.name, config)  # raises where the weights are damaged
    return True


def _describes(path: Path, config: EncoderConfig) -> bool:
    try:
        return parse_settings(read_yaml(path)) == config
    except InputError:
        return False


def _summary_writer(output: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("--tensorboard: run `pip install 'nessa[tensorboard]'` first") from None
    return SummaryWriter(str(output / "tensorboard"))
