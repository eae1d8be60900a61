"""Embeddings that another toolkit extracted, in the place of a model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from nessa.encoders.config import PretrainedConfig
from nessa.errors import about
from nessa.files import digest
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp

SET = "{set}"  # in a path: the name of the set


class ArksConfig(PretrainedConfig):
    """A table for all sets, or one per set."""

    path: str  # an scp, an ark or an embeddings directory; {set} stands for the set's name


class GivenEmbeddings:
    """A model of which only the embeddings are there.

    Attributes:
        name: as the recipe names it.
        fingerprint: stands for the model where the tables do not say whose they are: sha256 of
            their path.
    """

    settings, extra = ArksConfig, None

    def __init__(self, name: str, config: ArksConfig) -> None:
        self.name, self._path = name, config.path
        self.fingerprint = digest(["arks", config.path])

    def place(self, set_name: str) -> Path:
        """The table that holds a set's embeddings, maybe among others."""
        return Path(self._path.replace(SET, set_name))

    def read_set(self, set_name: str, utt2spk: Mapping[str, str]) -> Embeddings:
        """The embeddings of a set's utterances.

        Args:
            set_name: align, dev or eval.
            utt2spk: {utterance: speaker} of the set.

        Returns:
            In the order of `utt2spk`, stamped with the model that info.json beside the table
            names, or with this one.

        Raises:
            InputError: the table is unreadable, or an utterance has no vector in it.
        """
        place = self.place(set_name)
        table = Embeddings.read(place)
        with about(place):
            chosen = table.select(utt2spk)
        stamp = table.stamp or ModelStamp(self.name, self.fingerprint, set_name)
        chosen.stamp = replace(stamp, set=set_name)
        return chosen
