"""Audio samples -> log-mel filterbank features, through Lhotse's Fbank."""

import torch
from lhotse import Fbank, FbankConfig
from torch import Tensor, nn

from nessa.config import FeatureConfig


class FeatureExtractor(nn.Module):
    """Waveforms of one length -> mean-normalised log-mel features.

    Args:
        config: what the features are; belongs to the model that was trained on them.
    """

    def __init__(self, config: FeatureConfig) -> None:
        super().__init__()
        self.config = config
        fbank = FbankConfig(**config.model_dump(exclude={"mean_norm"}))
        self.fbank = Fbank(fbank).extractor

    @torch.no_grad()
    def forward(self, samples: Tensor) -> Tensor:
        """
        Args:
            samples: waveforms in [-1, 1], shape (B, samples), all of them full length.

        Returns:
            Features, shape (B, frames, num_filters).
        """
        features = self.fbank(samples)
        if self.config.mean_norm:
            features = features - features.mean(dim=1, keepdim=True)
        return features
