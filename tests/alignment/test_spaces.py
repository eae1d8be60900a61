"""The fingerprint of a space: maps that differ have different ones, a mirror has the same."""

from typing import Any

import pytest

from nessa.alignment import Aligner, aligner_class
from tests.aligners import small, views_for

# Pairs of aligners with the same arrays, whose maps differ.
UNLIKE = {
    "kind": (("logit", {}), ("logit_uncentered", {})),
    "setting": (("plda", {}), ("plda", {"length_normalize": False})),
    "another setting": (("procrustes", {}), ("ridge", {})),
}


def with_arrays_of(kind: str, settings: dict[str, Any], other: Aligner) -> Aligner:
    made = aligner_class(kind)(**settings)
    made.restore(other.state(), other.fingerprints)
    return made


@pytest.mark.parametrize("case", UNLIKE)
def test_kinds_and_settings_belong_to_the_space(case: str) -> None:
    (kind, settings), other = UNLIKE[case]
    first = small(kind, **settings).fit(*views_for(kind, 30, 3))
    assert first.space() != with_arrays_of(*other, first).space()
    assert first.space() == with_arrays_of(kind, settings, first).space()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("plda", {"length_normalize": False}), ("logit", {}), ("neural", {"mode": "to-enroll"})],
)
def test_an_aligner_and_its_mirror_have_one_space(kind: str, settings: dict[str, Any]) -> None:
    aligner = small(kind, **settings).fit(*views_for(kind, 30, 3))
    assert aligner.mirrored().space() == aligner.space()
