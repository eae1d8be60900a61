"""NESSA: one pass of its training, and mapping stored embeddings."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial

import kaldiio
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Machine
from benchmarks.measurement import Bound, Comparison, Measurement, in_turns, peak_memory, scaled
from benchmarks.workload import Workload
from nessa.alignment.neural import NeuralAligner
from nessa.alignment.table import AlignTable
from nessa.alignment.training import Training
from nessa.files import write_table
from nessa.production.mapping import map_sides
from nessa.threads import thread_count

LOADED_STEPS = 10  # steps that a DataLoader is given
ONE_BY_ONE = 1000  # vectors that a loop is given
MEMORY = 1.5  # times the embeddings


def bench_nessa(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """One pass over the align set, in memory and from arks."""
    enroll, runtime, utt2spk = workload.align
    table = AlignTable.of(enroll, runtime, utt2spk)
    aligner = NeuralAligner()
    config = aligner.config
    _, (modules, *_) = aligner.initial_modules(table.enroll, table.runtime, table.labels)
    training = Training(config, modules, (enroll.matrix, runtime.matrix), table.labels, seed=1)
    batch = min(config.speakers_per_batch, workload.size.speakers) * config.utterances_per_speaker
    steps = -(-len(enroll) // batch)
    size = f"{len(enroll):,} pairs, {steps} steps"

    def one_pass() -> None:
        for step in range(steps):
            training.step(step)

    tensors = TensorDataset(torch.from_numpy(enroll.matrix), torch.from_numpy(runtime.matrix))
    some = min(steps, LOADED_STEPS)

    def fed_by_loader() -> None:
        loader = iter(DataLoader(tensors, batch, shuffle=True))
        for step in range(some):
            next(loader)
            training.step(step)

    flops = steps * flops_of(partial(training.step, 0))
    ours, fed = in_turns(one_pass, fed_by_loader, repeats=3)
    yield Measurement(
        "NESSA, one pass",
        size,
        ours,
        [
            Comparison("its matrix products", [flops / machine.flops], wanted=1 / 2.5),
            Comparison("the same fed by a DataLoader", scaled(fed, steps / some)),
        ],
    )
    folders = workload.written(enroll, "enroll"), workload.written(runtime, "runtime")
    write_table(workload.folder / "utt2spk", utt2spk)

    def from_arks() -> None:
        found = AlignTable.open(*folders, workload.folder)
        NeuralAligner(**aligner.settings | {"steps": steps}).fit_table(found)

    (seconds,) = in_turns(from_arks, repeats=1)
    embeddings = enroll.matrix.nbytes + runtime.matrix.nbytes
    memory = Bound.memory(peak_memory(from_arks), MEMORY * embeddings)
    yield Measurement("NESSA from arks: start and one pass", size, seconds, [], [memory])


def bench_map(workload: Workload, machine: Machine) -> Iterator[Measurement]:
    """Both sides of the align set mapped, arks included."""
    enroll, runtime, utt2spk = workload.align
    part = enroll.keys[:4000]
    aligner = NeuralAligner(steps=1).fit(enroll.select(part), runtime.select(part), utt2spk)
    folders = workload.written(enroll, "enroll"), workload.written(runtime, "runtime")
    output = workload.folder / "mapped"

    def ours() -> None:
        map_sides(aligner, *folders, None, output, thread_count())

    some = min(ONE_BY_ONE, len(enroll))

    def one_by_one() -> None:
        for folder, apply in zip(folders, (aligner.map_enroll, aligner.map_runtime), strict=True):
            with kaldiio.WriteHelper(f"ark,scp:{output}.ark,{output}.scp") as writer:
                for _, (key, vector) in zip(
                    range(some), kaldiio.load_ark(str(folder / "xvector.1.ark")), strict=False
                ):
                    writer(key, apply(vector[None].copy())[0])

    products = sum(
        flops_of(partial(apply, view.matrix[:some])) / some
        for apply, view in ((aligner.map_enroll, enroll), (aligner.map_runtime, runtime))
    )
    seconds, loops = in_turns(ours, one_by_one, repeats=3)
    yield Measurement(
        "map both sides, arks included",
        f"2 x {len(enroll):,} vectors",
        seconds,
        [
            Comparison("its products", [products * len(enroll) / machine.flops], wanted=0.5),
            Comparison("vector by vector with kaldiio", scaled(loops, len(enroll) / some)),
        ],
    )
    shutil.rmtree(output)


def flops_of(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products of a work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()
