"""Embeddings as other toolkits write them are read, and mean the same."""

import struct

import kaldiio
import numpy as np
import pytest

from nessa.errors import InputError
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.lazy import NotStorableError, StoredVectors
from tests.kaldi.test_embeddings import numbered

VECTORS = {f"s{n}-u{n}": np.arange(3, dtype=np.float32) + n / 4 for n in range(3)}


def matrix(kind: bytes, dtype: str):
    def record(key, vector):
        sizes = b"\4" + struct.pack("<i", 1) + b"\4" + struct.pack("<i", len(vector))
        return f"{key} ".encode() + b"\0B" + kind + b" " + sizes + vector.astype(dtype).tobytes()

    return record


def text(pattern):
    def record(key, vector):
        return pattern.format(key, " ".join(map(str, vector.tolist()))).encode()

    return record


WRITERS = {
    "matrix of one row": matrix(b"FM", "<f4"),
    "matrix of one row of doubles": matrix(b"DM", "<f8"),
    "text matrix of one row": text("{}  [\n  {} ]\n"),
    "closing bracket on a line of its own": text("{}  [\n{}\n]\n"),
    "bracket on the line after the key": text("{}\n[ {} ]\n"),
    "tab after the key": text("{}\t[ {} ]\n"),
    "trailing blanks": text("{}  [ {} ]  \t\r\n"),
    "one after the other": text("{} [{}]\n"),
}


def assert_read(path, keys=tuple(VECTORS)):
    table = Embeddings.read(path)
    assert table.keys == list(keys)
    np.testing.assert_array_equal(table.matrix, [VECTORS[key] for key in keys])


@pytest.mark.parametrize("writer", WRITERS)
def test_vectors_of_any_writer(tmp_path, writer):
    record = WRITERS[writer]
    records = [record(key, vector) for key, vector in VECTORS.items()]
    (tmp_path / "x.ark").write_bytes(b"".join(records))
    assert_read(tmp_path / "x.ark")
    ends = np.cumsum([len(r) for r in records])
    lines = [
        f"{key} x.ark:{end - len(r) + len(key) + 1}\n"
        for key, end, r in zip(VECTORS, ends, records, strict=True)
    ]
    (tmp_path / "x.scp").write_text("".join(lines[::-1]))
    assert_read(tmp_path / "x.scp", [*VECTORS][::-1])
    (tmp_path / "last.ark").write_bytes(b"".join(records).rstrip(b"\n \t\r"))
    if writer.startswith("matrix"):
        return
    assert_read(tmp_path / "last.ark")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("ascii", [True, False])
def test_matrices_of_kaldiio(tmp_path, dtype, ascii):
    arrays = {key: vector.astype(dtype)[None] for key, vector in VECTORS.items()}
    ark, scp = tmp_path / "x.ark", tmp_path / "x.scp"
    kaldiio.save_ark(str(ark), arrays, scp=str(scp), text=ascii)
    assert_read(ark)
    assert_read(scp)


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (7, 2)])
@pytest.mark.parametrize("ascii", [True, False])
def test_matrices_of_more_rows_are_refused(tmp_path, shape, ascii):
    kaldiio.save_ark(str(tmp_path / "x.ark"), {"s-u": np.ones(shape, np.float32)}, text=ascii)
    with pytest.raises(InputError, match=f"vector of 's-u' is a matrix of {shape[0]} rows"):
        Embeddings.read(tmp_path / "x.ark")


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.rstrip("\n") + "  \n",
        lambda line: line.replace(" ", "\t", 1),
        lambda line: line.rstrip("\n") + "\r\n",
        lambda line: "  " + line.replace(" ", " \t ", 1).rstrip("\n") + "\t\n",
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_scps_with_other_white_space(tmp_path, change, mark):
    table = numbered(40)
    table.write_ark(tmp_path / "x.ark", tmp_path / "x.scp")
    lines = (tmp_path / "x.scp").read_text().splitlines(keepends=True)
    for changed in ([*map(change, lines)], [*lines[:-1], change(lines[-1])]):
        (tmp_path / "x.scp").write_text(mark + "".join(changed) + "\n", newline="")
        read = Embeddings.read(tmp_path / "x.scp")
        assert read.keys == table.keys and (read.matrix == table.matrix).all()


@pytest.mark.parametrize("folder", ["exp", "exp/xvectors", "exp/xvectors/eval"])
def test_arks_by_relative_paths_are_found_from_anywhere(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    table = numbered(5)
    table.write_ark("exp/xvectors/eval/x.ark", "exp/x.scp", relative=True)
    scp = tmp_path / folder / "moved.scp"
    scp.write_text((tmp_path / "exp/x.scp").read_text())
    monkeypatch.chdir("/")
    assert (Embeddings.read(scp).matrix == table.matrix).all()
    stored = StoredVectors(scp)
    assert [key for keys in stored.open() for key in keys] == table.keys
    assert (stored.load() == table.matrix).all()
    scp.write_text("a nowhere.ark:4\n")
    for read in (lambda: Embeddings.read(scp), lambda: list(StoredVectors(scp).open())):
        with pytest.raises(InputError, match=r"moved.scp: line 1: nowhere.ark: no such file in"):
            read()


def test_matrices_are_read_at_once_where_vectors_may_stay_on_disk(tmp_path):
    record = WRITERS["matrix of one row"]("a", VECTORS["s0-u0"])
    (tmp_path / "x.ark").write_bytes(record)
    (tmp_path / "x.scp").write_text("a x.ark:2\n")
    with pytest.raises(NotStorableError):
        list(StoredVectors(tmp_path / "x.scp").open())


@pytest.mark.parametrize("command", ["cat x.ark |", "gunzip -c x.ark.gz |  ", "ssh a cat b|"])
def test_a_command_is_refused_with_what_to_do(tmp_path, command):
    (tmp_path / "x.scp").write_text(f"a {command}\n")
    with pytest.raises(InputError, match=r"is not run; write its output to an ark") as caught:
        Embeddings.read(tmp_path / "x.scp")
    assert "allow" not in str(caught.value)
