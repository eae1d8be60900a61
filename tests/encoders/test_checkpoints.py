"""A checkpoint is called damaged where it is, and nothing else is."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nessa.encoders.batches import TrainSpeakers
from nessa.encoders.distributed import Processes
from nessa.encoders.kinds import parse_settings
from nessa.encoders.training import Training
from nessa.errors import InputError, explained
from tests.speech import prepare_set

SETTINGS = {
    "architecture": "tdnn",
    "channels": 8,
    "dim": 8,
    "features": {"num_filters": 20},
    "loss": {"type": "aam"},
    "steps": 4,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare_set(folder, "train", range(3), sessions=1, utterances=2)
    return folder


def training(data: Path, identity: str = "same") -> Training:
    config = parse_settings(SETTINGS)
    return Training(config, TrainSpeakers(data, (0.0, 1.0)), Processes(), identity)


@pytest.fixture
def saved(data: Path, tmp_path: Path) -> Path:
    one = training(data)
    for _ in zip(range(2), one.run(0), strict=False):
        pass
    one.save(tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


def edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save(change(content) or content, path)

    return apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def pickled(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cos\nsystem\n(S'true'\ntR.")


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut off": cut,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no checkpoint"),
    "a command": pickled,
    "a list": edit(lambda c: [c]),
    "no losses": edit(lambda c: c.update(losses=None)),
    "no encoder": edit(lambda c: {k: v for k, v in c.items() if k != "encoder"}),
    "another shape": edit(lambda c: c.update(encoder=dict.fromkeys(c["encoder"], torch.ones(2)))),
    "another optimizer": edit(lambda c: c["optimizer"].update(param_groups=[])),
    "a moment of another shape": edit(
        lambda c: c["optimizer"]["state"][0].update(exp_avg=torch.zeros(3))
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_said_to_be(data: Path, saved: Path, damage: str) -> None:
    DAMAGE[damage](saved)
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged, or no checkpoint of ours"):
        training(data).resume(saved)


ERRORS = [
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    MemoryError(),
    RuntimeError("CUDA error: device-side assert triggered"),
    KeyError("theirs"),
    OSError(5, "Input/output error"),
]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("place", ["torch.load", "torch.nn.Module.load_state_dict"])
def test_what_fails_for_another_reason_is_not_called_damaged(
    data: Path, saved: Path, place: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = training(data)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(place, fail)
    with pytest.raises(type(error)) as raised:
        one.resume(saved)
    assert raised.value is error


@pytest.mark.slow
def test_a_good_checkpoint_is_taken_up_and_a_foreign_one_left(data: Path, saved: Path) -> None:
    again, other = training(data), training(data, "other")
    again.resume(saved)
    other.resume(saved)
    assert len(again.losses) == 2 and not other.losses


def test_full_memory_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, explained("nessa"):
        raise ERRORS[0]
    assert end.value.code == 1
    assert "nessa: error: CUDA out of memory" in capsys.readouterr().err
    with pytest.raises(SystemExit), explained("nessa"):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")
    assert "nessa: error: no memory left; was there not enough" in capsys.readouterr().err
    with pytest.raises(RuntimeError, match="device-side"), explained("nessa"):
        raise ERRORS[2]
