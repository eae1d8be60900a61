"""How many align speakers a gain would take, by the curve of the study `speakers`."""

from collections.abc import Sequence

import numpy as np

from nessa.files import Record
from nessa.report.tables import CLAIM

TAILS = (3, 4, 5)  # of the curve's largest points; a power law is fitted to each of them
FARTHEST = 1000  # times as many speakers as were tried; what lies beyond is not a number


def speakers_needed(records: Sequence[Record]) -> str | None:
    """A sentence: what the EER does with each doubling, and where two gains would be reached.

    Lines are fitted to log EER over log speakers, the mean of the update directions given, at the
    largest 3, 4 and 5 points. The range is that of the fits that lie beyond the largest point; it
    says nothing of other speakers.

    Args:
        records: of `nessa.recipe.studies.run_study`, for the study "speakers".

    Returns:
        None where there are fewer than 3 points, no gain is defined, or the EER does not fall.
    """
    values = sorted({record["value"] for record in records})
    if len(values) < min(TAILS) or any(r["gain"] is None or r["eer"] <= 0 for r in records):
        return None
    means = [
        tuple(np.mean([(r["eer"], r["gain"]) for r in records if r["value"] == value], axis=0))
        for value in values
    ]
    errors, gains = np.array(means).T
    lines = [
        np.polyfit(np.log(values[-tail:]), np.log(errors[-tail:]), 1)
        for tail in TAILS
        if tail <= len(values)
    ]
    if max(slope for slope, _ in lines) >= 0 or np.ptp(gains) == 0:
        return None
    per_gain, without = np.polyfit(gains, errors, 1)  # exact: the EER is linear in the gain
    shares = [100 * (1 - 2**slope) for slope, _ in lines]
    first, *others = dict.fromkeys((record["enroll"], record["runtime"]) for record in records)
    of = "mean of both directions" if others else f"{first[0]} enrolls, {first[1]} runs"
    wanted = {"as good as not updating": 0.0, f"{CLAIM} % of the gain": CLAIM / 100}
    reached = []
    for what, gain in wanted.items():
        if gains[-1] >= gain:
            below = np.flatnonzero(gains < gain)  # the curve may fall back
            enough = values[below[-1] + 1 if len(below) else 0]
            reached.append(f"{what}: reached with {enough:,.0f}")
            continue
        error = without + per_gain * gain
        counts = [float(np.exp((np.log(error) - b) / a)) for a, b in lines] if error > 0 else []
        reached.append(f"{what}: {_range(counts, values[-1])}")
    return (
        f"Each doubling of the align speakers lowers the EER ({of}) by {_ends(shares, '.0f')} %. "
        f"Speakers needed, extrapolated: {'; '.join(reached)}."
    )


def _range(counts: Sequence[float], tried: float) -> str:
    """About how many, to two digits; a fit tells nothing that names no more than were tried."""
    told = [about for count in counts if (about := float(f"{count:.2g}")) > tried]
    if not told or max(told) > FARTHEST * tried:
        return "beyond what the curve can tell"
    low, high = min(told), max(told)
    return f"about {low:,.0f}" if low == high else f"about {low:,.0f} to {high:,.0f}"


def _ends(values: Sequence[float], form: str) -> str:
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"
