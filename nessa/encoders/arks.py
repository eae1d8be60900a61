"""Embeddings that another toolkit extracted, in the place of a model."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from nessa.corpus.speakers import SETS
from nessa.encoders.kinds import parse_settings
from nessa.encoders.settings import ArksConfig
from nessa.errors import InputError, about, named
from nessa.files import changes_of, digest
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import VECTORS, ModelStamp
from nessa.stores.tables import files_of, read_keys, read_table

SAMPLE = 1000  # vectors by which a model is known


class GivenEmbeddings:
    """A model of which only the embeddings are there.

    Where the tables do not say whose they are, the vectors themselves stand for the model: other
    ones under the same path are of another model, and the same ones elsewhere of the same.

    Attributes:
        name: as the recipe names it.
        fingerprint: of the files.
    """

    def __init__(self, name: str, config: ArksConfig) -> None:
        self.name, self._config = name, config

    def place(self, set_name: str) -> Path:
        """The table that holds a set's embeddings, maybe among others."""
        return self._config.place(set_name)

    def read_set(
        self,
        set_name: str,
        utt2spk: Mapping[str, str],
        reference: tuple[str, Iterable[str]] | None = None,
    ) -> Embeddings:
        """The embeddings of a set's utterances.

        Args:
            set_name: align, dev or eval.
            utt2spk: {utterance: speaker} of the set.
            reference: the set by whose vectors the model is known, and its utterances; None: this
                set. With the align set, more utterances of dev and eval leave the model the same.

        Returns:
            In the order of `utt2spk`, stamped with the model that info.json beside the table
            names, or with a fingerprint of the reference's vectors.

        Raises:
            InputError: the table is unreadable, or an utterance has no vector in it.
        """
        place = self.place(set_name)
        table = read_table(place)
        with about(place):
            chosen = table.select(utt2spk)
        stamp = table.stamp
        if stamp is None:
            known = self._fingerprint(table, place, reference or (set_name, utt2spk))
            stamp = ModelStamp(self.name, known, set_name)
        chosen.stamp = replace(stamp, set=set_name)
        return chosen

    def _fingerprint(
        self, table: Embeddings, place: Path, reference: tuple[str, Iterable[str]]
    ) -> str:
        """sha256 over vectors of the reference, a sample where there are many."""
        set_name, utterances = reference
        if self.place(set_name) != place:
            place = self.place(set_name)
            table = read_table(place)
        keys = sorted(utterances)
        sample = keys[:: -(-len(keys) // SAMPLE)]
        with about(place):
            vectors = table.select(sample).matrix
        content = hashlib.sha256(vectors.tobytes()).hexdigest()
        return VECTORS + digest([len(keys), sample, table.dim, content])

    @property
    def fingerprint(self) -> str:
        """sha256 over path, size and time of all files: tells whether one of them has changed.

        It is cheap, and not what the embeddings are stamped with; see `read_set`.
        """
        places = dict.fromkeys(map(self.place, SETS))
        return digest([self._config.path, changes_of(file for p in places for file in files_of(p))])


def lacking_vectors(
    encoders: Mapping[str, Mapping[str, Any]], data: Path, sets: Sequence[str]
) -> Iterator[str]:
    """What stage extract would refuse after the training: utterances that given tables lack.

    Args:
        encoders: settings of a recipe's models by their names.
        data: the recipe's data folder.
        sets: of it, to be extracted.

    Yields:
        A sentence for each model and set, or for a table that is unreadable or not there yet.
    """
    for name, settings in encoders.items():
        config = parse_settings(settings, f"encoders.{name}")
        if not isinstance(config, ArksConfig):
            continue
        for place in dict.fromkeys(map(config.place, sets)):  # one often serves all sets
            try:
                keys = set(chain.from_iterable(read_keys(place)))
            except InputError as error:
                yield f"{error} (model {name!r}, for stage extract)"
                continue
            for set_name in (name for name in sets if config.place(name) == place):
                if lacking := sorted(read_utt2spk(data / set_name).keys() - keys):
                    yield (
                        f"{place}: no vector for {named(lacking)} of set {set_name!r}, which stage "
                        f"extract needs of model {name!r}; add them, or take the utterances out of "
                        "the corpus"
                    )
