"""Benchmarks: how long the project's own work takes beside a reference in the same run.

A time alone says as much about the machine as about the code. Each measurement therefore runs
ours and a reference in turns, and is read by their ratio. A new benchmark is a function of a
size that yields measurements, and a name for it in `BENCHMARKS`.
"""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from nessa.errors import InputError
from nessa.metrics import Roc, bootstrap, cllr, eer, min_cllr, min_dcf

SIZES = ("small", "voxceleb")


@dataclass(frozen=True)
class Measurement:
    """Times of ours and of a reference, measured in turns.

    Attributes:
        what: what was timed, with its size.
        seconds: of each repeat of ours.
        reference: what it is compared with.
        reference_seconds: of each repeat of the reference.
    """

    what: str
    seconds: list[float]
    reference: str
    reference_seconds: list[float]

    @property
    def ratio(self) -> float:
        """Our median time over the reference's."""
        return median(self.seconds) / median(self.reference_seconds)

    def __str__(self) -> str:
        ours, theirs = _spread(self.seconds), _spread(self.reference_seconds)
        return f"{self.what}: {ours}; {self.reference}: {theirs}; ratio {self.ratio:.2f}"


def _spread(seconds: Sequence[float]) -> str:
    """The median, and from where to where the times go."""
    return f"{median(seconds):.3g} s ({min(seconds):.3g} to {max(seconds):.3g})"


def compare(
    what: str,
    ours: Callable[[], object],
    reference: str,
    theirs: Callable[[], object],
    repeats: int = 5,
) -> Measurement:
    """Time ours and theirs in turns, so that what slows the machine down slows both."""
    seconds, reference_seconds = [], []
    for _ in range(repeats):
        reference_seconds.append(_time(theirs))
        seconds.append(_time(ours))
    return Measurement(what, seconds, reference, reference_seconds)


def _time(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


# ---- the benchmarks -----------------------------------------------------------------------------


def bench_metrics(size: str) -> Iterator[Measurement]:
    """EER, minDCF, Cllr and minCllr of one system."""
    trials = {"small": 100_000, "voxceleb": 10_000_000}[size]
    rng = np.random.default_rng(0)
    labels = rng.random(trials) < 0.3
    scores = rng.normal(size=trials) + 2 * labels

    def one_by_one() -> None:
        for metric in (eer, min_dcf, cllr, min_cllr):
            metric(scores, labels)

    def off_one_curve() -> None:
        curve = Roc.of(scores, labels)
        for work in (curve.eer, curve.min_dcf, partial(curve.min_dcf, 0.05), curve.min_cllr):
            work()
        cllr(scores, labels)

    sort = "np.argsort of the scores", partial(np.argsort, scores)
    yield compare(f"EER, minDCF, Cllr, minCllr of {trials:,} trials", one_by_one, *sort)
    yield compare(f"the same off one curve, minDCF twice, {trials:,}", off_one_curve, *sort)


def bench_bootstrap(size: str) -> Iterator[Measurement]:
    """The joint speaker bootstrap of systems on lists shaped as VoxCeleb1-E: half targets."""
    trials, speakers, draws = {
        "small": (20_000, 100, 100),
        "voxceleb": (580_000, 1251, 1000),
    }[size]
    rng = np.random.default_rng(0)
    labels = np.arange(trials) % 2 == 0
    enroll = rng.integers(speakers, size=trials)
    others = (enroll + rng.integers(1, speakers, size=trials)) % speakers
    sides = _names(enroll), _names(np.where(labels, enroll, others))
    noise = rng.normal(size=trials)
    # About 2 % EER, as of a model with itself; and 50 %, as of two models that are not aligned.
    for kind, scores in (("2 % EER", noise + 4.1 * labels), ("50 % EER", noise)):
        yield compare(
            f"{draws} draws of {trials:,} trials, {kind}",
            partial(bootstrap, [scores], labels, *sides, draws=draws),
            "np.argsort of the scores",
            partial(np.argsort, scores),
            repeats=3,
        )


def bench_prepare(size: str) -> Iterator[Measurement]:
    """Stage 1 on a tree of names: manifests and a data directory of VoxCeleb2's size."""
    from nessa.corpus import Utterance, make_cuts, read_audio_header
    from nessa.sets import write_set

    speakers, each = {"small": (30, 20), "voxceleb": (6000, 182)}[size]
    with TemporaryDirectory() as folder:
        root = Path(folder)
        soundfile.write(root / "sound.wav", np.zeros(16000), 16000)
        utterances = []
        for number in range(speakers):
            speaker = f"id{number:05d}"
            (root / speaker).mkdir()
            for row in range(each):
                path = root / speaker / f"{row:05d}.wav"
                path.symlink_to(root / "sound.wav")
                utterances.append(Utterance(f"{speaker}-s0-{row:05d}", speaker, "s0", path))

        def headers() -> None:
            for utterance in utterances:
                read_audio_header(utterance.path)

        yield compare(
            f"preparing {speakers * each:,} utterances, one process",
            lambda: write_set(root / "data", "train", make_cuts(utterances)),
            "reading the headers of their audio",
            headers,
            repeats=3,
        )


def _names(codes: NDArray[np.int64]) -> list[str]:
    return [f"id{code:05d}" for code in codes.tolist()]


BENCHMARKS: dict[str, Callable[[str], Iterator[Measurement]]] = {
    "metrics": bench_metrics,
    "bootstrap": bench_bootstrap,
    "prepare": bench_prepare,
}


def run_benchmarks(names: Sequence[str], size: str) -> Iterator[tuple[str, Measurement]]:
    """Yield (benchmark, measurement) as they are done.

    Args:
        names: benchmarks to run; all where empty.
        size: one of `SIZES`.

    Raises:
        InputError: an unknown name or size.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise InputError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    if size not in SIZES:
        raise InputError(f"no size {size!r}; there are {', '.join(SIZES)}")
    for name in dict.fromkeys(names or BENCHMARKS):
        for measurement in BENCHMARKS[name](size):
            yield name, measurement


def record(name: str, size: str, measurement: Measurement) -> dict[str, Any]:
    """A measurement as it is written to JSON, with the machine that it was made on."""
    return {
        "benchmark": name,
        "size": size,
        "what": measurement.what,
        "seconds": measurement.seconds,
        "reference": measurement.reference,
        "reference_seconds": measurement.reference_seconds,
        "ratio": measurement.ratio,
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }
