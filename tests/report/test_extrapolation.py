"""What the curve of align speakers foretells."""

from collections.abc import Callable
from typing import Any

import pytest

from nessa.report.extrapolation import speakers_needed

OLD, NEW = 0.06, 0.03  # EER of not updating, and of re-enrolling


def curve(error: Callable[[float], float], counts: list[int]) -> list[dict[str, Any]]:
    """Records of a study whose two update directions lie 5 % to both sides of `error`."""
    return [
        {"value": n, "eer": e, "gain": (OLD - e) / (OLD - NEW), "enroll": first, "runtime": second}
        for n in counts
        for e, first, second in ((0.95 * error(n), "v2", "v1"), (1.05 * error(n), "v1", "v2"))
    ]


def test_a_power_law_is_followed_to_where_it_meets_not_updating_and_the_claim() -> None:
    found = speakers_needed(curve(lambda n: 1.2 * n**-0.35, [50, 100, 200, 500, 1000]))
    assert found is not None
    assert "lowers the EER (mean of both directions) by 22 %" in found  # 1 - 2^-.35
    met, claimed = ((1.2 / e) ** (1 / 0.35) for e in (OLD, OLD - 0.6 * (OLD - NEW)))
    assert f"as good as not updating: about {float(f'{met:.2g}'):,.0f}" in found
    assert f"60 % of the gain: about {float(f'{claimed:.2g}'):,.0f}." in found


def test_a_curve_of_one_direction_is_named() -> None:
    records = curve(lambda n: 1.2 * n**-0.35, [50, 100, 200])
    found = speakers_needed([r for r in records if r["enroll"] == "v1"])
    assert found is not None and "lowers the EER (v1 enrolls, v2 runs) by 22 %. " in found


def test_what_was_reached_is_not_extrapolated() -> None:
    found = speakers_needed(curve(lambda n: 0.6 * n**-0.35, [500, 1000, 2000, 4000]))
    assert found is not None
    assert "not updating: reached with 1,000" in found and "gain: reached with 2,000" in found


def test_a_count_above_which_the_curve_falls_back_did_not_suffice() -> None:
    errors = {50: 0.058, 100: 0.066, 200: 0.062, 500: 0.05, 1000: 0.04}
    found = speakers_needed(curve(errors.__getitem__, list(errors)))
    assert found is not None and "not updating: reached with 500; 60 % of" in found


def test_a_curve_that_bends_gives_a_range() -> None:
    bent = [50, 100, 200, 500, 1000]
    found = speakers_needed(curve(lambda n: 0.05 + 0.5 * n**-0.5, bent))
    assert found is not None and " to " in found


@pytest.mark.parametrize(
    ("errors", "claimed"),
    [
        ((0.09, 0.072, 0.0576, 0.05, 0.0446, 0.0425), "beyond what the curve can tell"),
        ((0.09, 0.075, 0.06, 0.047, 0.0435, 0.04238), "beyond what the curve can tell"),
        ((0.09, 0.075, 0.06, 0.049, 0.045, 0.0428), "about 2,000"),  # of one fit
    ],
)
def test_no_more_is_foretold_than_by_fits_that_lie_beyond_what_did_not_suffice(
    errors: tuple[float, ...], claimed: str
) -> None:
    counts = [50, 100, 200, 500, 1000, 1700]
    found = speakers_needed(curve(dict(zip(counts, errors, strict=True)).__getitem__, counts))
    assert found is not None and found.endswith(f"60 % of the gain: {claimed}.")


@pytest.mark.parametrize(
    "records",
    [
        curve(lambda n: 1.2 * n**-0.35, [50, 100]),
        curve(lambda n: 0.1, [50, 100, 200]),
        curve(lambda n: 0.01 * n**0.3, [50, 100, 200]),
        [r | {"gain": None} for r in curve(lambda n: n**-0.3, [50, 100, 200])],
        curve(lambda n: 0.0 if n == 100 else 0.05, [50, 100, 200]),
    ],
)
def test_nothing_is_foretold_of_a_curve_that_is_short_flat_rising_or_undefined(
    records: list[dict[str, Any]],
) -> None:
    assert speakers_needed(records) is None


def test_what_lies_too_far_has_no_number() -> None:
    found = speakers_needed(curve(lambda n: 0.2 * n**-0.02, [50, 100, 200]))
    assert found is not None and found.count("beyond what the curve can tell") == 2
