"""Log-mel features through Lhotse's Fbank, or features that the corpus brings."""

import warnings

import numpy as np
import torch
from lhotse import Fbank, FbankConfig
from lhotse.cut import MonoCut
from lhotse.features.kaldi.layers import _get_strided_batch
from torch import Tensor, nn

from nessa.corpus.audio import check_recording, read_audio
from nessa.corpus.features import load_features
from nessa.encoders.config import FeatureConfig
from nessa.errors import InputError, about

SAMPLES_PER_BLOCK = 2**16  # on a CPU, whose cache the frames of a whole batch would not fit
LONG = 2**20  # samples of an utterance that goes in blocks; about a minute


class FeatureExtractor(nn.Module):
    """Waveforms of one length -> mean-normalized log-mel features.

    Args:
        config: what the features are; belongs to the model that was trained on them.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        if config.type == "given":
            return
        settings = config.model_dump(exclude={"type", "scale", "mean_norm", "window"})
        with warnings.catch_warnings():
            # Lhotse warns of snip_edges, for it would expect other numbers of frames; we do not.
            warnings.filterwarnings("ignore", message=".*snip_edges")
            self.fbank = Fbank(FbankConfig(**settings, window_type=config.window)).extractor
        self.fbank._to_spec = (
            _power  # Lhotse's takes a square root and squares it again: half its time
        )

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        """
        Args:
            samples: waveforms in [-1, 1], shape (B, samples), all of them full length; where
                features are given, these, shape (B, frames, num_filters).

        Returns:
            Features, shape (B, frames, num_filters).

        Raises:
            InputError: with `snip_edges`, waveforms shorter than a frame.
        """
        if self.config.type == "given":
            return self.normalize(samples)
        frame = self.fbank.wav2win._length
        if self.config.snip_edges and samples.shape[1] < frame:
            raise InputError(
                f"only {samples.shape[1]} samples, shorter than a frame (features.frame_length: "
                f"{frame} samples) with features.snip_edges; remove it"
            )
        if self.config.scale != 1.0:
            samples = samples * self.config.scale
        rows = len(samples)
        if samples.device.type == "cpu":
            rows = max(1, SAMPLES_PER_BLOCK // samples.shape[1])
        return self.normalize(torch.cat([self._log_mel(part) for part in samples.split(rows)]))

    def _log_mel(self, samples: Tensor) -> Tensor:
        """Waveforms (B, samples) -> (B, frames, num_filters).

        Spectra take ten times the memory of the samples: those of long ones are made in blocks.
        """
        if samples.shape[1] <= LONG:
            return self.fbank(samples)
        cutter = self.fbank.wav2win
        frames = _get_strided_batch(samples, cutter._length, cutter._shift, cutter.snip_edges)
        blocks = frames.split(LONG // cutter._shift, dim=1)
        spectra = [self.fbank._forward_strided(*cutter._forward_strided(part)) for part in blocks]
        return torch.cat(spectra, dim=1)

    def normalize(self, features: Tensor) -> Tensor:
        """Subtract each utterance's mean over time, if the configuration says so: (B, T, F)."""
        if self.config.mean_norm:
            return features - features.mean(dim=1, keepdim=True)
        return features


def _power(spectrum: Tensor) -> Tensor:
    """|X|^2 of complex values of any shape."""
    return spectrum.real.square() + spectrum.imag.square()


def read_features(cut: MonoCut, extractor: FeatureExtractor, model: str) -> Tensor:
    """The features of one utterance, computed or, where the corpus brings them, read.

    Args:
        cut: with a recording, or with features.
        extractor: of the model.
        model: its name, for messages.

    Returns:
        Shape (T, F).

    Raises:
        InputError: see `read_audio` and `FeatureExtractor`; or given features of another dimension.
    """
    config = extractor.config
    if config.type == "given":
        return extractor(_given_features(cut, config, model)[None])[0]
    samples = read_audio(cut, config.sampling_rate, model)
    with about(check_recording(cut, config.sampling_rate, model)):
        return extractor(samples[None])[0]


def read_crop(cut: MonoCut, config: FeatureConfig, frames: int, position: float) -> np.ndarray:
    """A section of an utterance's given features, for training; not normalized.

    Args:
        cut: with features.
        config: of the model.
        frames: length T of the result; a shorter utterance is repeated.
        position: of the section, from 0 (at the start) to 1 (at the end).

    Returns:
        Shape (T, F).

    Raises:
        InputError: no features, unreadable, of another dimension, too short or not finite.
    """
    matrix = _given_features(cut, config, "in training").numpy()
    start = round(position * max(0, len(matrix) - frames))
    return np.resize(matrix[start : start + frames], (frames, config.num_filters))


def _given_features(cut: MonoCut, config: FeatureConfig, model: str) -> Tensor:
    if cut.features is None:
        raise InputError(
            f"utterance {cut.id!r} has no features, but those of model {model!r} are of type given;"
            f" make feats.scp, or set features.type to fbank"
        )
    matrix = load_features(cut)
    if matrix.shape[1] != config.num_filters:
        raise InputError(
            f"utterance {cut.id!r} ({cut.features.storage_path}): features of dimension "
            f"{matrix.shape[1]}, model {model!r} takes {config.num_filters}; set "
            "features.num_filters"
        )
    return torch.from_numpy(matrix)
