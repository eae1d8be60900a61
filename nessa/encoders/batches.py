"""The batches that encoders are trained on, each a function of (seed, step) alone."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from lhotse.cut import MonoCut
from torch import Tensor
from torch.utils.data import Dataset

from nessa.corpus.manifests import CutTable, read_background
from nessa.corpus.sounds import part_of, sounds_digest
from nessa.encoders.augmentation import Augmenter, makes_rooms
from nessa.encoders.config import AugmentationConfig, EncoderConfig
from nessa.encoders.distributed import Processes
from nessa.encoders.features import read_crop
from nessa.errors import InputError
from nessa.files import digest

Batch = tuple[Tensor, Tensor]
AUGMENTATION = AugmentationConfig()
MOST_DIGESTED = 1000  # utterances, noises or rooms by whose samples a train set is known


class TrainSpeakers:
    """The utterances of each speaker that an encoder is trained on.

    Attributes:
        names: of the speakers, sorted.
        noises, rirs: recordings that the augmentation draws from, or None.
        makes_rooms: whether it makes up rooms.
    """

    def __init__(
        self,
        data: Path,
        part: tuple[float, float],
        augmentation: AugmentationConfig = AUGMENTATION,
    ) -> None:
        """Read the train set and keep a part of its speakers.

        Args:
            data: the recipe's data folder.
            part: from and to, as fractions of the sorted list of speakers.
            augmentation: what has a probability of 0 is not read, and changes no digest.

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
        self.noises = read_background(data, "noise") if augmentation.noise_prob else None
        self.rirs = read_background(data, "rir") if augmentation.reverb_prob else None
        self.makes_rooms = makes_rooms(augmentation, self.rirs)

    def __len__(self) -> int:
        return len(self.names)

    def count(self, speaker: int) -> int:
        """How many utterances a speaker has."""
        return len(self._cuts[speaker])

    def cut(self, speaker: int, index: int) -> MonoCut:
        """One utterance of a speaker."""
        return self._table[self._cuts[speaker][index]]

    def digest(self) -> str:
        """sha256 over utterances and their samples, and the names of noises and rooms."""
        sha = hashlib.sha256()
        for indices in self._cuts:
            for index in indices:
                cut = self._table[index]
                sha.update(cut.id.encode() + b"\n")
                if part := part_of(cut):
                    sha.update(digest(part).encode() + b"\n")
        background = [[r.id for r in recordings or []] for recordings in (self.noises, self.rirs)]
        own = np.concatenate(self._cuts)
        digested = (self._table[index] for index in own[:: 1 + len(own) // MOST_DIGESTED])
        return digest([sha.hexdigest(), background, sounds_digest(digested)])

    def speakers_digest(self) -> str:
        """sha256 over which utterances are of one speaker, and the speakers' names."""
        return digest([[name, len(own)] for name, own in zip(self.names, self._cuts, strict=True)])

    def background_digest(self) -> str:
        """sha256 over samples of the noises and rooms."""
        kinds = [list(recordings or []) for recordings in (self.noises, self.rirs)]
        return digest([sounds_digest(own[:: 1 + len(own) // MOST_DIGESTED]) for own in kinds])


class TrainBatches(Dataset):
    """Step -> this process's part of the batch: (inputs (P * K, ...), labels (P * K,)).

    Inputs are waveforms (P * K, samples), or given features (P * K, T, F), speaker by speaker. A
    speaker played at another speed counts as another speaker, as in Kaldi's recipes.

    What cannot be read is the InputError in the place of the batch: raised in a worker of a
    DataLoader, it would reach the user as a traceback.

    Attributes:
        speakers_per_batch: P, of this process.
    """

    def __init__(
        self, speakers: TrainSpeakers, config: EncoderConfig, processes: Processes
    ) -> None:
        """
        Raises:
            InputError: noises or rooms of another sampling rate, or fewer speakers than processes.
        """
        self.speakers, self.config, self.processes = speakers, config, processes
        self.speeds = config.augmentation.speeds
        rate = config.features.sampling_rate
        self.augment = Augmenter(config.augmentation, speakers.noises, speakers.rirs, rate)
        self.samples = round(config.crop * rate)
        self.frames = round(config.crop / config.features.frame_shift)
        self.speakers_per_batch = min(config.speakers_per_batch, self.classes // processes.size)
        if self.speakers_per_batch == 0:
            raise InputError(
                f"{self.classes} train speakers (those at other speeds included) are too few for "
                f"{processes.size} processes; start fewer"
            )

    @property
    def classes(self) -> int:
        """Number of speakers, those at other speeds included."""
        return len(self.speakers) * len(self.speeds)

    def __getitem__(self, step: int) -> Batch | InputError:
        # Reverberation's Fourier transforms differ in the last bit with the number of threads; a
        # batch must not, whether a worker makes it or not.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._batch(step)
        except InputError as error:
            return error
        finally:
            torch.set_num_threads(threads)

    def _batch(self, step: int) -> Batch:
        # The batch of all processes is drawn by each of them, so that it is the one that a single
        # process would draw; this one loads its own part.
        rng = np.random.default_rng((self.config.seed, step))
        count = self.speakers_per_batch * self.processes.size
        labels = rng.choice(self.classes, count, replace=False)
        drawn = [load for label in labels for load in self._draw(int(label), rng)]
        repeated = labels.repeat(self.config.utterances_per_speaker)
        share = len(drawn) // self.processes.size
        own = slice(self.processes.rank * share, (self.processes.rank + 1) * share)
        inputs = np.stack([load() for load in drawn[own]])
        return torch.from_numpy(inputs), torch.from_numpy(repeated[own])

    def _draw(self, label: int, rng: np.random.Generator) -> Iterator[Callable[[], np.ndarray]]:
        """Draw K utterances of one speaker."""
        speaker, speed = divmod(label, len(self.speeds))
        count = self.speakers.count(speaker)
        k = self.config.utterances_per_speaker
        for index in rng.choice(count, k, replace=count < k):
            cut = self.speakers.cut(speaker, int(index))
            if self.config.features.type == "given":
                yield partial(read_crop, cut, self.config.features, self.frames, rng.random())
            else:
                yield self.augment.draw(cut, self.samples, self.speeds[speed], rng)
