"""Kaldi tables: reading and writing a model's embeddings."""

from collections.abc import Iterator

import kaldiio

from benchmarks.machine import Machine
from benchmarks.measurement import Comparison, Measurement, in_turns
from benchmarks.workload import Workload
from nessa.kaldi.embeddings import Embeddings


def bench_arks(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """Reading by ark and by scp, and writing both, beside kaldiio."""
    embeddings = workload.align[0]
    size = f"{len(embeddings):,} x {embeddings.dim}"
    ark, scp = (workload.folder / f"ours.{suffix}" for suffix in ("ark", "scp"))
    place = f"ark,scp:{workload.folder / 'theirs.ark'},{workload.folder / 'theirs.scp'}"

    def write_theirs() -> None:
        with kaldiio.WriteHelper(place) as writer:
            for key, vector in zip(embeddings.keys, embeddings.matrix, strict=True):
                writer(key, vector)

    ours, theirs = in_turns(lambda: embeddings.write_ark(ark, scp), write_theirs, repeats=3)
    disk = embeddings.matrix.nbytes / machine.disk
    yield Measurement(
        "write ark and scp",
        size,
        ours,
        [
            Comparison("kaldiio.WriteHelper", theirs, wanted=2),
            Comparison("the disk", [disk]),
        ],
    )

    def read_theirs() -> None:
        for _ in kaldiio.load_ark(str(ark)):
            pass

    # Memory that has been free for some seconds is slow to come back in a virtual machine, so that
    # nothing that takes as long stands between these two.
    ours, copied = in_turns(lambda: Embeddings.read(ark), embeddings.matrix.copy, repeats=15)
    (theirs,) = in_turns(read_theirs, repeats=3)
    yield Measurement(
        "read ark",
        size,
        ours,
        [
            Comparison("kaldiio.load_ark", theirs, wanted=5),
            Comparison("a copy of the vectors", copied, wanted=0.5),
        ],
    )

    def follow_theirs() -> None:
        for _ in kaldiio.load_scp_sequential(str(scp)):
            pass

    ours, theirs = in_turns(lambda: Embeddings.read(scp), follow_theirs, repeats=3)
    yield Measurement("read scp", size, ours, [Comparison("kaldiio.load_scp_sequential", theirs)])
    for path in workload.folder.glob("*.ark"):
        path.unlink()
