"""Domains, kinds of speech such as words and sentences, each with a mean of its own.

Embeddings of one kind of speech lie to one side, and not to the same side in both models. Moving
each domain's mean to that of all align utterances takes this away; see docs/method.md.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nessa.alignment.views import (
    SIDES,
    Floats,
    Labels,
    Matrix,
    Rows,
    Side,
    blocks,
    length_normalize,
)
from nessa.errors import named
from nessa.kaldi.directions import lengths

log = logging.getLogger(__name__)
FEWEST = 100  # align utterances of a domain, whose mean is known well enough

# Of an utterance, or of a mean of utterances of one domain; else those of each of its utterances.
DomainOf = str | tuple[str, ...]


class Domains(NamedTuple):
    """Which domain each align utterance is of.

    Attributes:
        names: of the K domains.
        codes: place of each row's domain among them, (N,).

    A row of unknown domain is of one without a name.
    """

    names: Sequence[str]
    codes: Labels

    @classmethod
    def of(cls, domains: Sequence[str]) -> "Domains":
        """Of the domain of each row, (N,)."""
        names, codes = np.unique(domains, return_inverse=True)
        return cls(names.tolist(), codes)


def domain_shifts(view: Rows, domains: Domains) -> dict[str, Matrix]:
    """{domain: the mean of all rows, of unit length, minus that of its own (D,)}.

    Domains of fewer than `FEWEST` rows are left out.

    Args:
        view: embeddings, (N, D).
        domains: of its rows.
    """
    sums: Floats = np.zeros((len(domains.names), view.shape[1]))
    for rows in blocks(len(view)):
        np.add.at(sums, domains.codes[rows], length_normalize(view[rows]))
    counts = np.bincount(domains.codes, minlength=len(domains.names))
    mean = sums.sum(axis=0) / len(view)
    return {
        name: (mean - own / count).astype(np.float32)
        for name, own, count in zip(domains.names, sums, counts, strict=True)
        if name and count >= FEWEST
    }


class Shifted:
    """Rows of a view, moved by the shift of their domain when they are asked for.

    Args:
        view: (N, D).
        domains: of its rows.
        shifts: {domain: shift (D,)}.
    """

    def __init__(self, view: Rows, domains: Domains, shifts: Mapping[str, Matrix]) -> None:
        self._view, self._domains, self._shifts = view, domains, shifts
        self.shape = view.shape

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, rows: Any) -> Matrix:
        names = np.array(self._domains.names)[self._domains.codes[rows]]
        return shifted(self._view[rows], names.tolist(), self._shifts)


def names_in(domain: DomainOf) -> tuple[str, ...]:
    """The names of a domain, or of several."""
    return (domain,) if isinstance(domain, str) else domain


def domain_of_mean(utterances: Iterable[str], domains: Mapping[str, DomainOf]) -> DomainOf:
    """The domain of a mean of utterances, or, sorted, those of all where they are of several.

    An utterance that `domains` does not name is of one without a name.
    """
    found = sorted(name for u in utterances for name in names_in(domains.get(u, "")))
    return tuple(found) if len(set(found)) > 1 else found[0]


def shifted(
    matrix: Matrix, domains: Sequence[DomainOf | None], shifts: Mapping[str, Matrix]
) -> Matrix:
    """Rows (N, D), made unit vectors, plus the shift of their domain, scaled by their length.

    Means of utterances of several domains are moved by the mean of their shifts. Others stay as
    they are: a profile of both is the mean of vectors of one scale.
    """
    moved = matrix.copy()
    for row, several in enumerate(domains):
        if isinstance(several, tuple):
            none = np.zeros(matrix.shape[1], np.float32)
            shift = np.mean([shifts.get(name, none) for name in several], axis=0)
            own = matrix[row : row + 1]
            moved[row] = ((length_normalize(own) + shift) * lengths(own)[:, None])[0]
    names = np.array([name if isinstance(name, str) else "" for name in domains])
    for name, shift in shifts.items():
        rows = names == name
        own = matrix[rows]
        moved[rows] = (length_normalize(own) + shift) * lengths(own)[:, None]
    return moved


def warn_of_lacking(shifts: Mapping[Side, Mapping[str, Matrix]], kept: Side) -> None:
    """Warn of domains that a side that stays as it is moves, and the side that joins it does not.

    Vectors that were mapped without their domains, as stores are, it suits all the same.

    Args:
        shifts: of both sides, {domain: shift (D,)}.
        kept: the side that stays as it is.
    """
    joining = SIDES[1 - SIDES.index(kept)]
    if lacking := sorted(shifts[kept].keys() - shifts[joining].keys()):
        log.warning(
            "the %s side, which stays as it is, centers domains %s, of which the align set has no "
            "%d utterances: the %s side suits vectors that were mapped without --utt2domain alone; "
            "for others give the align set its utt2domain (--data)",
            kept, named(lacking), FEWEST, joining,
        )  # fmt: skip
