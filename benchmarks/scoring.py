"""Scores of trial lists: by cosine, as a command, and normalized with a cohort."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np

from benchmarks.machine import Machine
from benchmarks.measurement import Bound, Comparison, Measurement, in_turns, peak_memory, scaled
from benchmarks.workload import Workload
from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.normalization import COHORT_FLOATS, AsNorm

try:
    from sklearn.metrics.pairwise import cosine_similarity
except ImportError:  # told now, rather than after the benchmarks before this one
    raise InputError(
        "the benchmarks compare with scikit-learn, which is not installed; run "
        "`pip install 'nessa[bench]'` first"
    ) from None


ONE_BY_ONE = 1000  # trials that a loop is given
BRUTE_FORCE = 100  # vectors that brute force is given
GIBIBYTE = 2**30


def bench_cosine(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """The scores in memory, and the whole command, beside a loop over the trials."""
    embeddings, trials = workload.eval[0], workload.trials
    size = f"{len(trials):,} trials"
    vectors = dict(zip(embeddings.keys, embeddings.matrix, strict=True))
    part = min(ONE_BY_ONE, len(trials))

    def loop() -> None:
        for enroll, test in zip(trials.enroll[:part], trials.test[:part], strict=True):
            cosine_similarity(vectors[enroll].reshape(1, -1), vectors[test].reshape(1, -1))

    ours, loops = in_turns(lambda: cosine_scores(embeddings, embeddings, trials), loop)
    whole_loop = scaled(loops, len(trials) / part)
    name = "a loop over scikit-learn's cosine_similarity"
    yield Measurement("cosine", size, ours, [Comparison(name, whole_loop, wanted=500)])

    folder = workload.folder
    trials.write(folder / "trials")
    directory = str(workload.written(embeddings, "eval"))
    command = [sys.executable, "-m", "nessa.cli", "score", "--enroll", directory, "--runtime"]
    command += [directory, "--trials", str(folder / "trials"), "--output", str(folder / "scores")]
    (ours,) = in_turns(lambda: subprocess.run(command, check=True, capture_output=True), repeats=3)
    wanted = [Comparison(name, whole_loop, wanted=30), Comparison("10 s", [10.0], wanted=1)]
    yield Measurement("nessa score", size, ours, wanted)


def bench_as_norm(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """Normalization on both sides, its matrix product alone, and brute force."""
    embeddings, cohort, trials = workload.eval[0], workload.cohort[0], workload.trials
    size = f"2 x {len(embeddings):,} x {len(cohort):,} cohort scores"
    top_n = min(300, len(cohort) // 2)
    scores = cosine_scores(embeddings, embeddings, trials)
    other = Embeddings(embeddings.keys, embeddings.matrix[::-1])  # as another model's

    def whole() -> None:
        AsNorm(embeddings, other, cohort, cohort, top_n).apply(scores, trials)

    rows = [trials.enroll_index.names, trials.test_index.names]
    count = sum(map(len, rows))
    step = max(1, COHORT_FLOATS // len(cohort))

    def product() -> None:
        for _ in range(2):
            for start in range(0, count // 2, step):
                embeddings.matrix[start : start + step] @ cohort.matrix.T

    part = embeddings.matrix[:BRUTE_FORCE]

    def brute_force() -> None:
        top = np.sort(part @ cohort.matrix.T, axis=1)[:, -top_n:]
        top.mean(axis=1), top.std(axis=1)

    ours, products, brute = in_turns(whole, product, brute_force, repeats=3)
    floats = 2 * count * len(cohort) * embeddings.dim
    peak = Comparison("the machine's products", [floats / machine.flops], wanted=0.6)
    yield Measurement("AS-norm, the product", size, products, [peak])
    yield Measurement(
        "AS-norm",
        size,
        ours,
        [
            Comparison("its product", products, wanted=1 / 3),
            Comparison("numpy's sort of all cohort scores", scaled(brute, count / len(part))),
        ],
        [Bound.memory(peak_memory(whole), GIBIBYTE)],
    )
