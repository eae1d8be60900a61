"""Files appear whole or not at all; text tables are read strictly."""

import os
import stat
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nessa.errors import InputError, about
from nessa.files import (
    STARTED_IN,
    atomic_open,
    digest,
    find_listed,
    read_json,
    read_lines,
    read_table,
    remove_leftovers,
    write_json,
)
from nessa.files import write_table as write_text_table
from tests.conftest import ROOT


def test_atomic_open_writes_the_whole_file(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with atomic_open(path) as file:
        file.write("one\ntwo é\n")
        assert not path.exists()
    assert path.read_bytes() == "one\ntwo é\n".encode()
    assert os.listdir(path.parent) == ["file"]


def test_atomic_open_keeps_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_open(path, "wb") as file:
        file.write(b"new" * 100_000)
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 250, "taken/file"])
def test_atomic_open_names_what_could_not_be_written(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(OSError) as caught, atomic_open(path) as file:
        (path.parent / "file").mkdir()
        file.write("text")
    assert caught.value.filename == str(path)
    assert not list(tmp_path.rglob(".*"))


def test_atomic_open_has_all_on_disk_before_the_name_stands_for_it(tmp_path, monkeypatch):
    """After a power cut there is the old file or the new one, never an empty one."""
    path, synced, sync = tmp_path / "file", [], os.fsync

    def fsync(handle):
        status = os.fstat(handle)
        what = "folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes"
        synced.append((what, path.exists()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with atomic_open(path) as file:
        file.write("text")
    assert synced == [("4 bytes", False), ("folder", True)]


def test_atomic_open_refuses_a_folder_before_it_is_written(tmp_path):
    with pytest.raises(InputError, match="is a folder; name a file in it"), atomic_open(tmp_path):
        pytest.fail("was opened")


def test_atomic_open_leaves_nothing_when_the_rename_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"), atomic_open(tmp_path / "file") as file:
        file.write("text")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_was_writing_is_removed_unless_somebody_still_writes(tmp_path):
    lone = "import os, sys; from nessa.files import atomic_open\n"
    lone += "with atomic_open(sys.argv[1]) as file: os._exit(9)"
    subprocess.run([sys.executable, "-c", lone, tmp_path / "part.parquet"], cwd=ROOT)
    own = [".draft.tmp", ".hidden", "a.parquet"]
    for name in own:
        (tmp_path / name).touch()
    with atomic_open(tmp_path / "next.parquet"):
        assert len(list(tmp_path.glob(".*.parquet.*.tmp"))) == 2
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(".next.parquet.*.tmp"))) == 1
        assert len(os.listdir(tmp_path)) == len(own) + 1
    assert sorted(os.listdir(tmp_path)) == sorted([*own, "next.parquet"])
    remove_leftovers(tmp_path / "none")


def test_what_was_left_of_one_file_is_removed_alone_whatever_its_name(tmp_path):
    for name in ("set[1].csv", "set1.csv"):
        (tmp_path / f".{name}.abcdefgh.tmp").touch()
    remove_leftovers(tmp_path, "set[1].csv")
    assert os.listdir(tmp_path) == [".set1.csv.abcdefgh.tmp"]


def test_a_full_disk_is_named_by_the_file_that_did_not_fit():
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with (
        pytest.raises(OSError, match=r"No space left.*'.*/file'"),
        atomic_open("/tmp/file") as file,
    ):
        with open("/dev/full", "w") as full:
            full.write("x")
        file.write("not reached")


def test_atomic_open_honors_the_umask(tmp_path):
    mask = os.umask(0o027)
    try:
        with atomic_open(tmp_path / "file") as file:
            file.write("x")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


words = st.text(st.characters(min_codepoint=33, max_codepoint=0x24F, exclude_categories=["Z", "C"]))


@pytest.mark.slow
@settings(deadline=None, max_examples=50)  # each example waits for the disk
@given(st.dictionaries(words.filter(bool), words.filter(bool)))
def test_tables_round_trip_in_c_order(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("table") / "utt2spk"
    write_text_table(path, table)
    assert read_table(path) == table
    lines = path.read_bytes().splitlines()
    assert [line.split(b" ")[0] for line in lines] == sorted(key.encode() for key in table)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a 1\n\nb 2\n", "line 2: expected `key value`"),
        (b"a 1\nb\n", "line 2: expected `key value`"),
        (b"a 1\na 2\n", "line 2: duplicate key 'a'"),
        (b"a\x1cb 1\n", "line 1: key 'a\\\\x1cb' has white space"),
        (b"a\x0bb 1\n", "line 1: key 'a\\\\x0bb' has white space"),
        (b"a 1\n\xef\xbb\xbfb 2\n", "line 2: byte order mark"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa 1\n", "line 1: byte order mark"),
        (b"a 1\nb \xff\n", "not UTF-8"),
        (b"a 1\nb \0\n", "line 2: NUL"),
    ],
)
def test_broken_tables_are_refused_with_file_and_line(tmp_path, content, message):
    path = tmp_path / "table"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)


def test_missing_files_and_directories_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        list(read_lines(tmp_path / "absent"))
    with pytest.raises(InputError, match="cannot be read"):
        list(read_lines(tmp_path))


def test_a_last_line_without_its_end_is_read(tmp_path):
    (tmp_path / "table").write_bytes(b"a 1\r\nb 2 3")
    assert read_table(tmp_path / "table") == {"a": "1", "b": "2 3"}


@pytest.mark.parametrize(
    "content",
    [
        b"a\t1\nb\t2 3\n",
        b"a 1 \nb 2 3\t \r\n",
        b"  a \t 1\n b   2 3\n",
        b"\xef\xbb\xbfa 1\r\nb 2 3\r\n",
        b"\xef\xbb\xbfa 1\nb 2 3",
        b"a 1\nb 2 3\n\n",
        b"a 1\nb 2 3\n \t\n\r\n  ",
    ],
)
@pytest.mark.parametrize("block", [1, 4, 2**22])
def test_tables_are_read_as_other_tools_and_editors_write_them(
    tmp_path, content, block, monkeypatch
):
    monkeypatch.setattr("nessa.files.BLOCK_BYTES", block)
    (tmp_path / "table").write_bytes(content)
    assert read_table(tmp_path / "table") == {"a": "1", "b": "2 3"}


def test_a_key_alone_is_read_where_a_table_may_have_it(tmp_path):
    (tmp_path / "text").write_text("a hello there\nb\nc \nd\t\n")
    assert read_table(tmp_path / "text", empty=True) == {"a": "hello there"} | dict.fromkeys(
        "bcd", ""
    )
    with pytest.raises(InputError, match="line 2: expected"):
        read_table(tmp_path / "text")


def test_lines_are_numbered_through_all_blocks_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("nessa.files.BLOCK_BYTES", 16)
    lines = [*("a 1", "", "", "b 2") * 9, "c 3"]
    (tmp_path / "table").write_text("\n".join([*lines, "", ""]))
    assert list(read_lines(tmp_path / "table")) == list(enumerate(lines, 1))


def test_a_file_of_empty_lines_is_empty(tmp_path):
    for content in (b"", b"\n", b"\xef\xbb\xbf", b" \n\r\n\t\n \n"):
        (tmp_path / "table").write_bytes(content)
        assert read_table(tmp_path / "table") == {}


@pytest.mark.parametrize("place", ["a/x.ark", "data/a/x.ark", "x.ark"])
@pytest.mark.parametrize("table", ["data/x.scp", "data/a/x.scp", "data/a/b/c/x.scp"])
def test_relative_paths_are_found_near_the_table_or_where_the_user_is(
    tmp_path, monkeypatch, place, table
):
    wanted = tmp_path / "data/a/x.ark"
    (tmp_path / "data/a/b/c").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    wanted.touch()
    folder = wanted.as_posix().removesuffix(f"/{place}")
    monkeypatch.chdir(tmp_path / "elsewhere")
    near = (tmp_path / table).parent.is_relative_to(folder)
    if near:
        assert find_listed(place, tmp_path / table).samefile(wanted)
    else:
        with pytest.raises(InputError, match=f"^{place}: no such file in .*elsewhere; restore it"):
            find_listed(place, tmp_path / table)
    monkeypatch.setenv(STARTED_IN, folder)
    assert find_listed(place, tmp_path / table).samefile(wanted)
    monkeypatch.delenv(STARTED_IN)
    monkeypatch.chdir(folder)
    assert find_listed(place, tmp_path / table).samefile(wanted)
    if near:  # another file of that name would be taken for it
        monkeypatch.chdir(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "elsewhere" / place).touch()
        with pytest.raises(InputError, match=r"is both .*/elsewhere/.* and .*; write absolute"):
            find_listed(place, tmp_path / table)


def test_json_round_trips_and_refuses_what_is_not_json(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"b": [1, 2.5, None], "a": "é"})
    assert read_json(path) == {"b": [1, 2.5, None], "a": "é"}
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"eer": float("nan")})
    assert path.read_bytes() == before
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(InputError, match="line 2: not JSON"):
        read_json(path)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a":' * 100_000, "[1" + "0" * 5000 + "]"])
def test_json_that_python_cannot_hold_is_refused(tmp_path, content):
    (tmp_path / "file").write_text(content)
    with pytest.raises(InputError, match="file: not JSON that can be read"):
        read_json(tmp_path / "file")


def test_a_line_without_end_is_refused_and_not_collected(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.truncate(2**36)  # 64 GiB of NUL, none of it on disk
    with pytest.raises(InputError, match="line 1: longer than"):
        list(read_lines(tmp_path / "file"))


def test_digest_ignores_the_order_of_mappings_only():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": [1, 2]}) != digest({"a": [2, 1]})


def test_bad_input_begins_with_its_files_each_once():
    with pytest.raises(InputError, match=r"^a, b: no$"), about("a", "b", "a"):
        raise InputError("no")


def test_a_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "original").write_text("first")
    (tmp_path / "link").symlink_to("original")
    with atomic_open(tmp_path / "link") as file:
        file.write("second")
    assert (tmp_path / "original").read_text() == "first"
    assert (tmp_path / "link").read_text() == "second"


def test_what_is_no_file_is_written_and_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    with atomic_open(tmp_path / "pipe") as file:
        file.write("into a pipe")
    assert reader.communicate()[0] == "into a pipe"
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_is_written_where_the_shell_has_opened_a_file(tmp_path, name):
    program = f"from nessa.files import write_table; write_table('{name}', {{'a': 1}})"
    with open(tmp_path / "out", "w") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, cwd=ROOT, check=True)
        subprocess.run(["echo", "after"], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "a 1\nafter\n"
