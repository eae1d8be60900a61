"""The fingerprint of a space: maps that differ have different ones, a mirror has the same."""

from pathlib import Path
from typing import Any

import pytest

from nessa.alignment import Aligner, NeuralAligner, aligner_class, load, load_to_update
from nessa.alignment.views import SIDES
from nessa.errors import InputError
from nessa.files import read_json, write_json
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


@pytest.mark.slow
def test_a_side_that_joins_a_frozen_one_is_in_its_space(tmp_path: Path) -> None:
    """So that what the frozen side has mapped before is compared with what the new one maps."""
    first = small("neural").fit(*views_for("neural", 30, 3))
    assert isinstance(first, NeuralAligner)
    space, other = first.space(), views_for("neural", 40, 3)
    maps = {side: first.map_digest(side) for side in SIDES}
    first.fit(*other, freeze="enroll")
    assert first.map_digest("enroll") == maps["enroll"] == first.mirrored().map_digest("runtime")
    assert first.map_digest("runtime") != maps["runtime"]
    assert first.space() == space == first.mirrored().space()
    assert first.pair() != space  # whose calibration is another one
    assert first.pair() == first.mirrored().pair()
    first.save(tmp_path)
    assert load(tmp_path).space() == space
    again = load_to_update(tmp_path).fit(*other, freeze="runtime")
    assert again.space() == space
    fresh = again.fit(*other)  # both sides anew
    assert fresh.pair() == fresh.space() != space


@pytest.mark.slow
def test_the_space_that_was_joined_is_sealed(tmp_path: Path) -> None:
    first = small("neural").fit(*views_for("neural", 30, 3))
    assert isinstance(first, NeuralAligner)
    first.fit(*views_for("neural", 40, 3), freeze="enroll").save(tmp_path)
    description = read_json(tmp_path / "aligner.json")
    for change in ({"joined": "0" * 64}, {"joined": None}):
        write_json(tmp_path / "aligner.json", description | change)
        with pytest.raises(InputError, match="was changed since it was saved"):
            load(tmp_path)
    write_json(tmp_path / "aligner.json", description | {"joined": 7})
    with pytest.raises(InputError, match="does not describe an aligner"):
        load(tmp_path)
