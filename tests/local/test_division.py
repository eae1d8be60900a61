"""local/division.py: what the sets of a user's corpus are made of, and what is refused."""

import re

import pytest

from nessa.corpus.speakers import split_speakers
from nessa.corpus.validation import validate
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from tests.kaldi_corpora import write_audio_dir
from tests.local.test_kaldi_dir import (  # noqa: F401
    ENCODER,
    SETS,
    Own,
    own,
    programs,
    refuse,
)
from tests.pairs import all_trials


@pytest.fixture
def set_of(own: Own) -> dict[str, str]:  # noqa: F811
    """{speaker: set} of a directory `mine`, whose spk2set has three speakers of each set."""
    write_audio_dir(own.folder / "mine", range(12))
    set_of = {f"spk{number:03d}": SETS[number // 3] for number in range(12)}
    write_table(own.folder / "mine/spk2set", set_of)
    return set_of


def test_trials_of_speakers_whom_spk2set_has_elsewhere_are_refused(
    own: Own,  # noqa: F811
    set_of: dict[str, str],
) -> None:
    trials = own.folder / "mine/trials"
    good = "spk009_rec0_0 spk009_rec1_0 target\nspk009_rec0_0 spk010_rec0_0 nontarget\n"
    trials.write_text(good + "spk009_rec0_0 spk007_rec0_0 nontarget\n")
    for options in ((), ("--skip-bad",)):
        done = own.prepare(*options, data=own.folder / "mine")
        refuse(done, f"{trials}: ", "mine/spk2set has speaker 'spk007' in another set than eval")
    assert not own.data.exists()
    trials.write_text(good)
    assert own.prepare(data=own.folder / "mine").status == 0


def test_spk2set_is_validated_as_it_is_prepared(
    own: Own,  # noqa: F811
    set_of: dict[str, str],
) -> None:
    mine = own.folder / "mine"
    for table in (set_of | {"spk001": "test"}, {s: n for s, n in set_of.items() if s != "spk001"}):
        write_table(mine / "spk2set", table)
        (problem,) = validate(mine)
        assert "spk2set: " in problem and "'spk001'" in problem
        for options in ((), ("--skip-bad",)):
            refuse(own.prepare(*options, data=mine), problem)


def test_lines_of_absent_speakers_in_spk2set_do_not_count(
    own: Own,  # noqa: F811
    set_of: dict[str, str],
) -> None:
    lent = {s: "align" if name == "train" else name for s, name in set_of.items()}
    write_table(own.folder / "mine/spk2set", lent | {f"x{k:02d}": "align" for k in range(20)})
    assert own.prepare(data=own.folder / "mine", held_out={"align": 0.5}).status == 0
    assert [len(own.speakers()[name]) for name in SETS] == [3, 3, 3, 3]


@pytest.mark.parametrize("kept", ["spk003", "rec0_0", "rec0_0|spk003"])
def test_an_align_set_of_which_no_aligner_can_learn_is_refused(
    own: Own,  # noqa: F811
    set_of: dict[str, str],
    kept: str,
) -> None:
    """Of one speaker, or of one utterance each but for one; copies could add what lacks."""
    mine = own.folder / "mine"
    for name in ("wav.scp", "utt2spk", "utt2session"):
        table = read_table(mine / name)
        kept_lines = {
            u: v for u, v in table.items() if set_of[u[:6]] != "align" or re.search(kept, u)
        }
        write_table(mine / name, kept_lines)
    for path in (mine / "spk2utt", mine / "spk2set"):
        path.unlink(missing_ok=True)
    present = set(read_table(mine / "utt2spk").values())
    write_table(mine / "spk2set", {s: n for s, n in set_of.items() if s in present})
    refuse(own.prepare(data=mine), f"{mine}: set 'align' has", "an aligner learns from two")
    assert not own.data.exists()
    assert own.prepare(data=mine, includes_train=True).status == 0


def test_two_directories_of_all_sets_are_refused(own: Own) -> None:  # noqa: F811
    write_audio_dir(own.folder / "mine", range(2))
    done = own.prepare(data=own.folder / "mine", own=own.folder / "mine")
    refuse(done, "corpus.paths: data and own both name the directory of all sets", "remove one")


@pytest.mark.parametrize("file", ["utt2spk", "cuts.jsonl.gz"])
def test_a_file_is_no_corpus(own: Own, file: str) -> None:  # noqa: F811
    """Tables beside a manifest, such as trials, count only in a folder that is named."""
    path = own.folder / "mine" / file
    write_table(path, {"a-1": "a"})
    refuse(own.prepare(data=path), f"{path}: is a file (corpus.paths.data); name the folder")


def test_a_recipe_may_be_called_as_a_set(own: Own) -> None:  # noqa: F811
    """Its set's directory is not that of all sets."""
    members = {"train": range(3), "align": range(3, 6), "dev": range(6, 8), "eval": range(8, 11)}
    paths = {name: own.folder / "mine" / name for name in SETS}
    for name, path in paths.items():
        write_audio_dir(path, members[name])
    assert own.prepare(**paths, recipe_name="dev", held_out={}).status == 0
    assert [len(own.speakers()[name]) for name in SETS] == [3, 3, 2, 3]


def test_a_set_of_which_all_is_skipped_says_why(own: Own) -> None:  # noqa: F811
    mine = own.folder / "mine"
    write_audio_dir(mine, range(12))
    encoder = ENCODER | {"features": {"sampling_rate": 8000}}
    done = own.prepare("--skip-bad", data=mine, encoder=encoder)
    refuse(done, "set 'train': all 16 utterances were skipped; the first: utt", "sampled at 16000")


def test_the_seed_of_the_recipe_draws_the_speakers(own: Own) -> None:  # noqa: F811
    write_audio_dir(own.folder / "mine", range(12))
    drawn = []
    for seed in (1, 1, 2):
        done = own.prepare(
            data=own.folder / "mine", encoder={"pretrained": "resemblyzer"}, seed=seed
        )
        assert done.status == 0, done
        drawn.append(read_table(own.data / "dev/spk2utt").keys())
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_small_share_is_of_two_speakers() -> None:
    found = split_speakers(map(str, range(10)), {"dev": 0.05}, 1, "corpus")
    assert {name: len(speakers) for name, speakers in found.items()} == {"train": 8, "dev": 2}


def test_speakers_that_no_set_takes_are_said_to_be_left_out(own: Own) -> None:  # noqa: F811
    write_audio_dir(own.folder / "mine", range(8))
    write_audio_dir(own.folder / "own", range(10, 13))
    paths = {"data": own.folder / "mine", "align": own.folder / "own"}
    held_out = {"dev": 2, "eval": 3}
    done = own.prepare(**paths, encoder={"pretrained": "resemblyzer"}, held_out=held_out)
    assert done.status == 0 and "3 speakers of set align are left out" in done.out, done


def test_trials_of_nearly_all_speakers_leave_too_few_for_the_other_sets(
    own: Own,  # noqa: F811
) -> None:
    """As VoxCeleb1-E beside VoxCeleb1's embeddings."""
    mine, encoder = own.folder / "mine", {"pretrained": "resemblyzer"}
    all_trials(write_audio_dir(mine, range(3, 12))).write(mine / "trials")
    told = "the other 9 are in its trials, and so in eval: add speakers, name folders of"
    all_others_are_align = {"dev": 0.2, "eval": 0.2}
    for others in (2, 3):
        write_audio_dir(mine, range(3 - others, 12))
        done = own.prepare(data=mine, encoder=encoder, held_out=all_others_are_align)
        refuse(done, f"{mine}: {others} speakers are too few for align, dev", told)
    done = own.prepare(data=mine, encoder=encoder)
    refuse(done, told, "(corpus.paths.align, corpus.paths.dev)")
    done = own.prepare(data=mine)
    refuse(done, told, "(corpus.paths.train, corpus.paths.align, corpus.paths.dev)")
    done = own.prepare(data=mine, held_out={"dev": 2}, includes_train=True)
    refuse(done, f"{mine}: 3 speakers are too few for train, dev", told)
    write_audio_dir(mine, range(13))
    done = own.prepare(data=mine, held_out={"dev": 2}, includes_train=True)
    assert done.status == 0, done
    write_audio_dir(mine, range(12))
    paths = {name: own.folder / name for name in ("align", "dev")}
    for first, path in enumerate(paths.values()):
        write_audio_dir(path, range(20 + 4 * first, 24 + 4 * first))
    assert own.prepare(data=mine, encoder=encoder, **paths).status == 0
    all_trials(write_audio_dir(own.folder / "x", range(8, 12))).write(mine / "trials")
    refuse(own.prepare(data=mine, encoder=encoder, held_out={"align": 7, "dev": 2}), "change prep")
    assert own.prepare(data=mine, encoder=encoder).status == 0


@pytest.mark.parametrize("includes", [False, True])
def test_held_out_align_counts_where_no_encoder_is_trained(
    own: Own,  # noqa: F811
    includes: bool,
) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    settings = {"encoder": {"pretrained": "resemblyzer"}, "includes_train": includes}
    done = own.prepare(data=own.folder / "mine", **settings)
    assert done.status == 0, done
    assert len(set(read_utt2spk(own.data / "align").values())) == (7 if includes else 3)
    assert ("4 speakers of set train are left out" in done.out) != includes


def test_what_tables_show_is_refused_before_audio_is_read(
    own: Own,  # noqa: F811
    set_of: dict[str, str],
) -> None:
    mine, test = own.folder / "mine", own.folder / "test"
    for path in (mine / "audio").glob("*"):
        path.write_bytes(b"")
    done = own.prepare(data=mine, trials={"dev": 3})
    refuse(done, f"{mine}: no trials; say in prepare.trials.eval")
    domains = {"low": "spk00[0-6]", "high": "spk00[8-9]|spk01.", "none": "x.*"}
    done = own.prepare(data=mine, domains=domains)
    refuse(done, "prepare.domains: speaker 'spk007' matches 0 of the patterns")
    write_table(mine / "spk2gender", dict.fromkeys(set_of, "f") | {"spk004": "female"})
    for options in ((), ("--skip-bad",)):
        done = own.prepare(*options, data=mine)
        refuse(done, f"{mine}/spk2gender: neither m nor f: 'spk004'")
    (mine / "spk2gender").unlink()
    write_audio_dir(test, range(8, 10))
    done = own.prepare(data=mine, eval=test)
    refuse(done, "speaker 'spk008' is in set 'dev' and in set 'eval'")
    assert not own.data.exists()


def test_trials_beside_an_eval_set_of_its_own_are_said_not_to_be_used(
    own: Own,  # noqa: F811
    set_of: dict[str, str],
) -> None:
    mine, test = own.folder / "mine", own.folder / "test"
    write_audio_dir(test, range(20, 23))
    far = "spk000_rec0_0 spk000_rec1_0 target\nspk000_rec0_0 spk001_rec0_0 nontarget\n"
    (mine / "trials_far").write_text(far)
    done = own.prepare(data=mine, eval=test)
    assert done.status == 0 and f"{mine}: 'trials_far' not used" in done.out, done
    (mine / "trials_far").unlink()
    assert "not used" not in own.prepare(data=mine, eval=test).out


def test_a_list_that_loses_all_trials_is_named(own: Own) -> None:  # noqa: F811
    mine = own.folder / "mine"
    write_audio_dir(mine, range(12))
    bad = "spk003_rec0_0"
    (mine / "trials").write_text(f"{bad} spk003_rec1_0 target\n{bad} spk004_rec0_0 nontarget\n")
    (mine / f"audio/{bad}.wav").write_bytes(b"")
    done = own.prepare("--skip-bad", data=mine)
    refuse(done, f"{mine}/trials: all trials are of what was skipped", "repair the utterances")
