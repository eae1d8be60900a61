"""`python -m benchmarks.accelerator`: NESSA's training and a large encoder on a GPU, or on the CPU.

Rates are floating-point operations of matrix products and convolutions per second, beside those
of one large matrix product in the same precision on the same device. Without a GPU the same code
runs on little work: the rates are then the CPU's.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import click
import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.alignment import flops_of
from benchmarks.simulation import Simulation
from nessa.alignment import AlignTable, DevSet, NeuralAligner
from nessa.encoders import parse_settings
from nessa.encoders.distributed import Processes
from nessa.encoders.features import FeatureExtractor
from nessa.encoders.losses import Criterion
from nessa.encoders.trained import TrainedModel, build
from nessa.trials import Trials

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ON_GPU = DEVICE.type == "cuda"
PAIRS = 1_092_009 if ON_GPU else 2_400  # of align utterances; VoxCeleb2's dev set has so many
UTTERANCES = 12  # of each align speaker
BATCH = 256 if ON_GPU else 2  # crops
CHANNELS = 1024 if ON_GPU else 128  # of ECAPA-TDNN
SECONDS, RATE, FRAMES = 3, 16000, 300  # of a crop
CLASSES = 5994  # train speakers of VoxCeleb2
PRODUCT = 8192 if ON_GPU else 1024
REPEATS = 10 if ON_GPU else 2


@click.command()
def run() -> None:
    """Print the figures, each as soon as it is there."""
    click.echo(f"{torch.cuda.get_device_name() if ON_GPU else 'CPU'}, torch {torch.__version__}")
    peak = _peak(torch.bfloat16 if ON_GPU else torch.float32)
    click.echo(f"matrix product: {peak / 1e12:.2f} TFLOP/s ({'bf16' if ON_GPU else 'float32'})")
    for work in (_aligner, partial(_encoder, peak), _agreement):
        for line in work():
            click.echo(line)


def _aligner() -> Iterator[str]:
    simulation = Simulation()
    speakers = PAIRS // UTTERANCES
    enroll, runtime, names = simulation.sample(speakers, UTTERANCES)
    x, y, dev_names = simulation.sample(100, 4, set_number=1)
    keys = list(dev_names)
    pairs = [(a, b) for n, a in enumerate(keys) for b in keys[n + 1 :: 7]]
    labels = np.array([dev_names[a] == dev_names[b] for a, b in pairs])
    dev = DevSet(x, y, Trials([a for a, _ in pairs], [b for _, b in pairs], labels))
    table = AlignTable.of(enroll, runtime, names)
    aligner = NeuralAligner()
    seconds = _timed(lambda: aligner.fit_table(table, dev))
    step = aligner.fitting["step"]
    yield f"aligner: {len(names):,} pairs in {seconds:.1f} s, step {step} kept"


def _encoder(peak: float) -> Iterator[str]:
    """Extraction and training of ECAPA-TDNN on crops, from samples."""
    config = parse_settings(
        {"architecture": "ecapa", "channels": CHANNELS, "dim": 192}
        | {"features": {"num_filters": 80}, "loss": {"type": "aam"}, "steps": 1}
    )
    torch.manual_seed(1)
    encoder = build(config).to(DEVICE)
    extractor = FeatureExtractor(config.features).to(DEVICE)
    samples = 0.1 * torch.randn(BATCH, SECONDS * RATE, device=DEVICE)
    features = extractor(samples)

    @torch.inference_mode()
    def extract() -> Tensor:
        with _bf16():
            return encoder(extractor(samples))

    encoder.eval()
    yield _rate("extraction", extract, flops_of(extract), peak)
    criterion = Criterion(config, CLASSES, BATCH, Processes(device=DEVICE)).to(DEVICE)
    labels = torch.arange(BATCH, device=DEVICE)
    encoder.train()

    def train(network: nn.Module) -> None:
        with _bf16():
            embeddings = network(features)
        criterion(embeddings.float(), labels, 1.0).backward()

    flops = flops_of(partial(train, encoder))
    yield _rate("training", partial(train, encoder), flops, peak)
    if ON_GPU:
        compiled = torch.compile(encoder)
        yield _rate("training, torch.compile", partial(train, compiled), flops, peak)


def _agreement() -> Iterator[str]:
    """How far the embeddings of this device are from the CPU's."""
    config = parse_settings(
        {"architecture": "ecapa", "channels": 64, "dim": 160, "loss": {"type": "ge2e"}, "steps": 1}
    )
    torch.manual_seed(1)
    model = TrainedModel("ecapa", config, build(config))
    inputs = list(torch.randn(4, FRAMES, config.features.num_filters))
    here = model.embed(inputs)
    model.device = torch.device("cpu")
    model.encoder.cpu()
    cosine = torch.cosine_similarity(here, model.embed(inputs))
    yield f"embeddings here and on the CPU: 1 - cosine at most {(1 - cosine).max():.1e}"


def _peak(precision: torch.dtype) -> float:
    a = torch.randn(PRODUCT, PRODUCT, device=DEVICE, dtype=precision)
    return 2 * PRODUCT**3 / _best(lambda: a @ a)


def _rate(name: str, work: Callable[[], object], flops: int, peak: float) -> str:
    seconds = _best(work)
    crops = f"{BATCH / seconds:,.0f} crops of {SECONDS} s a second"
    return f"{name}: {crops}, {100 * flops / seconds / peak:.0f} % of the matrix product's rate"


def _bf16() -> AbstractContextManager[object]:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=ON_GPU)


def _best(work: Callable[[], object]) -> float:
    work()  # sets up
    return min(_timed(work) for _ in range(REPEATS))


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if ON_GPU:
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(run())
