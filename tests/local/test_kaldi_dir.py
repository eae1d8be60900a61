"""local/kaldi_dir.py: any Kaldi data directory or Lhotse manifests become the sets of a recipe."""

import gzip
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import yaml
from lhotse import (
    CutSet,
    Features,
    Recording,
    RecordingSet,
    SupervisionSegment,
    SupervisionSet,
)
from lhotse.cut import MonoCut
from lhotse.kaldi import load_kaldi_data_dir
from lhotse.utils import fastcopy

from nessa.corpus.finishing import finish_sets
from nessa.corpus.manifests import read_background
from nessa.corpus.utterances import write_backgrounds
from nessa.corpus.validation import validate, validate_tables
from nessa.encoders import SpeakerModel, load_model, parse_settings
from nessa.encoders.config import FeatureConfig
from nessa.encoders.extraction import extract
from nessa.encoders.training import train_encoder
from nessa.errors import InputError
from nessa.files import read_table, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.recipe.resolve import load_recipe
from nessa.trials import Trials
from tests.conftest import Command
from tests.kaldi_corpora import write_audio_dir, write_feature_dir
from tests.local.test_programs import ENCODER, Done, Programs, programs, refuse  # noqa: F401
from tests.pairs import all_trials
from tests.speech import read_cuts

SETS = ("train", "align", "dev", "eval")
TRIALS = {"dev": 8, "eval": 8}  # target trials
GIVEN = ENCODER | {
    "features": {"type": "given", "num_filters": 7},
    "augmentation": {"noise_prob": 0, "reverb_prob": 0},
}


class Own:
    """A user's folder, and the program on it."""

    def __init__(self, folder: Path, programs: Programs) -> None:  # noqa: F811
        self.folder, self.data = folder, folder / "out"
        self._programs = programs

    def prepare(
        self,
        *options: object,
        encoder: dict = ENCODER,
        includes_train: bool = False,
        held_out: dict | None = None,
        corpus: dict | None = None,
        copies: dict | None = None,
        domains: dict | None = None,
        trials: dict[str, int] = TRIALS,
        recipe_name: str = "own",
        seed: int = 1,
        **paths: Path,
    ) -> Done:
        settings = {
            "name": recipe_name,
            "seed": seed,
            "corpus": {"paths": {n: str(p) for n, p in paths.items()}, **(corpus or {})},
            "prepare": {
                "program": "kaldi_dir",
                "held_out": {"align": 3, "dev": 2, "eval": 3} if held_out is None else held_out,
                "align_includes_train": includes_train,
                "align_copies": copies or {},
                "domains": domains or {},
                "trials": {n: {"targets": t, "nontargets": 20} for n, t in trials.items()},
            },
            "encoders": dict.fromkeys(("old", "new"), encoder),
            "update": ["old", "new"],
        }
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings))
        done = self._programs(
            "kaldi_dir",
            "--recipe",
            recipe,
            "--corpus",
            self.folder,
            "--output",
            self.data,
            *options,
        )
        if done.status == 0:
            loaded = load_recipe(recipe)
            finish_sets(self.data, loaded.prepare, loaded.seed)
        return done

    def speakers(self) -> dict[str, set[str]]:
        return {name: set(read_utt2spk(self.data / name).values()) for name in SETS}

    def table(self, name: str) -> dict[str, str]:
        return {k: v for part in SETS for k, v in read_table(self.data / part / name).items()}


@pytest.fixture
def own(tmp_path: Path, programs: Programs) -> Own:  # noqa: F811
    return Own(tmp_path, programs)


def assert_divided(own: Own, utt2spk: dict[str, str], includes_train: bool = False) -> None:
    speakers = own.speakers()
    sizes = {"train": 4, "align": 3 + 4 * includes_train, "dev": 2, "eval": 3}
    assert {name: len(found) for name, found in speakers.items()} == sizes
    assert own.table("utt2spk") == utt2spk
    assert [validate_tables(own.data / name) for name in SETS] == [[]] * 4
    assert len(Trials.read(own.data / "eval/trials")) == 28
    assert len(list(read_cuts(own.data, "eval"))) == len(read_utt2spk(own.data / "eval"))


@pytest.mark.slow
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("includes_train", [False, True])
def test_audio(own: Own, segmented: bool, includes_train: bool) -> None:
    utt2spk = write_audio_dir(own.folder / "mine", range(12), segmented=segmented)
    done = own.prepare(data=own.folder / "mine", includes_train=includes_train)
    assert done.status == 0, done
    assert_divided(own, utt2spk, includes_train)
    assert (own.data / "eval/segments").exists() == segmented
    cut = next(iter(read_cuts(own.data, "eval")))
    assert cut.load_audio().shape == (1, round(0.7 * 16000))
    if segmented:
        assert own.table("segments") == read_table(own.folder / "mine/segments") | {
            key: f"{fields[0]} {float(fields[1]):.4f} {float(fields[2]):.4f}"
            for key, value in own.table("segments").items()
            for fields in [value.split()]
        }
        assert own.table("utt2session")[cut.id] == cut.recording_id


@pytest.mark.parametrize(("compressed", "text"), [(0, False), (2, False), (0, True)])
def test_features_alone(own: Own, compressed: int, text: bool) -> None:
    utt2spk = write_feature_dir(
        own.folder / "mine", 12, 4, frames=50, dim=7, compressed=compressed, text=text
    )
    done = own.prepare(data=own.folder / "mine", encoder=GIVEN)
    assert done.status == 0, done
    assert_divided(own, utt2spk)
    assert not (own.data / "eval/wav.scp").exists()
    assert not (own.data / "manifests/eval_recordings.jsonl.gz").exists()
    cut = next(iter(read_cuts(own.data, "eval")))
    assert cut.load_features().shape == (50, 7) and cut.duration == pytest.approx(0.5)
    assert own.table("feats.scp") == read_table(own.folder / "mine/feats.scp")
    assert "every utterance counts as a session" in done.out


@pytest.mark.parametrize("skip_bad", [False, True])
def test_recordings_of_segments_are_sessions_of_features_whose_audio_is_gone(
    own: Own, skip_bad: bool
) -> None:
    mine = own.folder / "mine"
    utt2spk = write_feature_dir(mine, 12, 4, frames=50, dim=7)
    recordings = {u: f"{u[:-1]}{int(u[-1]) // 2}" for u in utt2spk}
    write_table(mine / "segments", {u: f"{name} 0.5 1.0" for u, name in recordings.items()})
    write_table(mine / "reco2dur", dict.fromkeys(recordings.values(), "9.0"))
    assert validate(mine) == []
    done = own.prepare(*["--skip-bad"] * skip_bad, data=mine, encoder=GIVEN)
    assert done.status == 0 and "no utt2session" not in done.out, done
    assert own.table("utt2session") == recordings
    assert not (own.data / "eval/segments").exists()
    assert validate(own.data / "eval") == []
    (mine / "wav.scp").touch()
    assert "is not in wav.scp" in "\n".join(validate(mine))


def test_encoders_train_on_given_features_and_embed_them(own: Own) -> None:
    utt2spk = write_feature_dir(own.folder / "mine", 12, 4, frames=50, dim=7)
    trained = GIVEN | {"steps": 3, "crop": 0.4, "speakers_per_batch": 4}
    assert own.prepare(data=own.folder / "mine", encoder=trained).status == 0
    config = parse_settings(trained)
    for name in ("a", "b"):
        train_encoder(config, own.data, own.folder / name, workers=0)
    weights = [(own.folder / name / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    model = load_model(own.folder / "a")
    assert isinstance(model, SpeakerModel)
    embeddings = extract(model, list(read_cuts(own.data, "eval")))
    assert embeddings.keys == [u for u in sorted(utt2spk) if u in read_utt2spk(own.data / "eval")]
    assert embeddings.dim == 8 and np.linalg.matrix_rank(embeddings.matrix) > 1
    with pytest.raises(InputError, match=r"dimension 7, model .* takes 9"):
        other = config.model_copy(update={"features": FeatureConfig(type="given", num_filters=9)})
        train_encoder(other, own.data, own.folder / "c", workers=0)


def test_features_alone_need_encoders_that_take_them(own: Own) -> None:
    write_feature_dir(own.folder / "mine", 12, 2, frames=20, dim=7)
    refuse(own.prepare(data=own.folder / "mine"), "no wav.scp; add it or", "to given, which pretra")
    write_audio_dir(own.folder / "sound", range(12))
    refuse(own.prepare(data=own.folder / "sound", encoder=GIVEN), "no feats.scp", "to fbank")


def test_pretrained_models_take_given_features(own: Own) -> None:
    write_feature_dir(own.folder / "mine", 12, 4, frames=50, dim=7)
    onnx = {"pretrained": "onnx", "file": "m.onnx", "features": GIVEN["features"]}
    done = own.prepare(data=own.folder / "mine", encoder=onnx)
    assert done.status == 0, done
    given, written = (
        read_table(folder / "feats.scp") for folder in (own.folder / "mine", own.data / "eval")
    )
    assert written and written.items() <= given.items()


def lhotse_manifests(own: Own, kaldi: Path) -> tuple[RecordingSet, SupervisionSet]:
    words = dict.fromkeys(read_utt2spk(kaldi), "word")
    write_table(kaldi / "text", words)  # without which Lhotse reads no segments
    recordings, supervisions, _ = load_kaldi_data_dir(kaldi, sampling_rate=16000)
    return recordings, supervisions


@pytest.mark.slow
@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("as_cuts", [False, True])
def test_lhotse_manifests(own: Own, segmented: bool, as_cuts: bool) -> None:
    utt2spk = write_audio_dir(own.folder / "kaldi", range(12), segmented=segmented)
    recordings, supervisions = lhotse_manifests(own, own.folder / "kaldi")
    folder = own.folder / "mine"
    folder.mkdir()
    if as_cuts:
        cuts = CutSet.from_manifests(recordings=recordings, supervisions=supervisions)
        cuts.to_file(folder / "all_cuts.jsonl.gz")
    else:
        recordings.to_file(folder / "recordings.jsonl.gz")
        supervisions.to_file(folder / "supervisions.jsonl.gz")
    done = own.prepare(data=folder)
    assert done.status == 0, done
    assert_divided(own, utt2spk)
    assert (own.data / "eval/segments").exists() == segmented
    cut = next(iter(read_cuts(own.data, "eval")))
    assert cut.load_audio().shape == (1, round(0.7 * 16000))


@pytest.mark.slow
def test_a_directory_per_set_and_one_for_the_others(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    tested = write_audio_dir(own.folder / "test", range(20, 24))
    all_trials(tested).write(own.folder / "test/trials")
    trials = all_trials({utt: s for utt, s in tested.items() if s != "spk020"})
    trials.write(own.folder / "test/trials_few")
    paths = {"data": own.folder / "mine", "eval": own.folder / "test"}
    done = own.prepare(**paths, held_out={"align": 0.25, "dev": 2})
    assert done.status == 0, done
    speakers = own.speakers()
    assert {name: len(found) for name, found in speakers.items()} == {
        "train": 7, "align": 3, "dev": 2, "eval": 4
    }  # fmt: skip
    for name in ("trials", "trials_few"):
        written = (own.data / "eval" / name).read_bytes()
        assert written == (own.folder / "test" / name).read_bytes()
    refuse(own.prepare(eval=own.folder / "test"), "set 'train'", "corpus.paths.train=DIR")
    refuse(own.prepare(data=own.folder / "no"), "no such folder")
    refuse(own.prepare(**paths, tset=own.folder), "'tset'")


def test_the_speakers_of_given_trials_are_eval(own: Own) -> None:
    utt2spk = write_audio_dir(own.folder / "mine", range(12))
    tested = {utt: s for utt, s in utt2spk.items() if s in ("spk003", "spk007")}
    all_trials(tested).write(own.folder / "mine/trials")
    assert own.prepare(data=own.folder / "mine").status == 0
    speakers = own.speakers()
    assert speakers["eval"] == {"spk003", "spk007"}
    assert [len(speakers[name]) for name in ("train", "align", "dev")] == [5, 3, 2]
    (own.folder / "mine/trials").write_text("spk003_rec0_0 nobody target\n")
    refuse(own.prepare(data=own.folder / "mine"), "mine/trials", "'nobody'")


@pytest.mark.slow
def test_spk2set_divides_a_directory_of_all_sets(own: Own) -> None:
    utt2spk = write_audio_dir(own.folder / "mine", range(12))
    speakers = sorted(set(utt2spk.values()))
    set_of = {s: SETS[min(k // 2, 3)] for k, s in enumerate(speakers)}
    write_table(own.folder / "mine/spk2set", set_of)
    expected = {name: {s for s in speakers if set_of[s] == name} for name in SETS}
    # By the recipe's name, too, as `./run.sh --recipe voices --voices DIR` gives it.
    for paths in ({"data": own.folder / "mine"}, {"own": own.folder / "mine"}):
        assert own.prepare(**paths).status == 0
        assert own.speakers() == expected
    refuse(own.prepare(own=own.folder / "no"), "no such folder (corpus.paths.own)")
    write_table(own.folder / "mine/spk2set", set_of | {speakers[0]: "test"})
    refuse(own.prepare(data=own.folder / "mine"), "spk2set", "'test'", "train, align, dev, eval")
    write_table(own.folder / "mine/spk2set", {s: set_of[s] for s in speakers[1:]})
    refuse(own.prepare(data=own.folder / "mine"), "spk2set", speakers[0])
    write_table(own.folder / "mine/spk2set", dict.fromkeys(speakers, "align"))
    refuse(own.prepare(data=own.folder / "mine"), "no speaker of set 'dev'")


@pytest.mark.slow
@pytest.mark.parametrize(("stay", "left"), [(0.5, 3), (2, 2)])
@pytest.mark.parametrize("includes_train", [False, True])
def test_a_spk2set_without_train_lends_align_speakers_to_the_encoders(
    own: Own, stay: float, left: int, includes_train: bool
) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    speakers = [f"spk{number:03d}" for number in range(12)]
    set_of = {s: ("align", "align", "dev", "eval")[k // 3] for k, s in enumerate(speakers)}
    write_table(own.folder / "mine/spk2set", set_of)
    settings = {"data": own.folder / "mine", "includes_train": includes_train}
    done = own.prepare(**settings, held_out={"align": stay})
    assert done.status == 0, done
    first = own.speakers()
    assert first["train"] | first["align"] == set(speakers[:6])
    assert len(first["train"]) == 6 - left
    assert len(first["align"]) == (6 if includes_train else left)
    assert (first["dev"], first["eval"]) == (set(speakers[6:9]), set(speakers[9:]))
    assert own.prepare(**settings, held_out={"align": stay}).status == 0
    assert own.speakers() == first
    refuse(
        own.prepare(**settings, held_out={}), "spk2set: no speaker of set 'train'",
        "prepare.held_out.align how many of the align speakers stay align",
    )  # fmt: skip
    done = own.prepare(**settings, held_out={"align": 5})
    refuse(done, "spk2set: 6 speakers leave 1 for set 'train'", "change prepare.held_out")


def test_a_spk2set_without_train_does_where_nothing_is_trained(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(6))
    set_of = {f"spk{n:03d}": ("align", "dev", "eval")[n // 2] for n in range(6)}
    write_table(own.folder / "mine/spk2set", set_of)
    done = own.prepare(data=own.folder / "mine", encoder={"pretrained": "resemblyzer"}, held_out={})
    assert done.status == 0, done
    assert not (own.data / "train").exists() and (own.data / "align/utt2spk").exists()
    write_audio_dir(own.data / "train", range(10, 12))  # a user's own, which nothing replaces
    before = files(own.data / "train")
    settings = {"data": own.folder / "mine", "held_out": {}}
    assert own.prepare(**settings, encoder={"pretrained": "resemblyzer"}).status == 0
    assert files(own.data / "train") == before
    refuse(own.prepare(**settings), f"{own.data}/train: stage prepare did not make this")
    for name, refused in (("train_cuts", False), ("noise_recordings", True)):
        users = own.data / f"manifests/{name}.jsonl.gz"
        with gzip.open(users, "wt") as file:  # which a time in its header tells from ours
            file.write("{}\n")
        done = own.prepare(**settings, encoder={"pretrained": "resemblyzer"})
        assert users.exists() and files(own.data / "train") == before
        assert done.status == (2 if refused else 0), done
    refuse(done, f"{users}: stage prepare did not make this", "move or remove it")


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])  # a directory per set, or spk2set
def test_train_speakers_are_align_or_said_to_be_left_out_where_nothing_is_trained(
    own: Own, apart: bool
) -> None:
    speakers = {name: [f"spk{2 * k + i:03d}" for i in (0, 1)] for k, name in enumerate(SETS)}
    if apart:
        paths = {name: own.folder / name for name in SETS}
        for k, path in enumerate(paths.values()):
            write_audio_dir(path, range(2 * k, 2 * k + 2))
    else:
        paths = {"data": own.folder / "mine"}
        write_audio_dir(own.folder / "mine", range(8))
        set_of = {s: name for name, own_speakers in speakers.items() for s in own_speakers}
        write_table(own.folder / "mine/spk2set", set_of)
    for includes in (False, True):
        done = own.prepare(**paths, encoder={"pretrained": "resemblyzer"}, includes_train=includes)
        assert done.status == 0, done
        expected = {*speakers["align"], *(speakers["train"] if includes else [])}
        assert set(read_utt2spk(own.data / "align").values()) == expected
        assert not (own.data / "train").exists()
        assert ("2 speakers of set train are left out" in done.out) != includes
    refuse(own.prepare(train=own.folder / "no"), "no such folder (corpus.paths.train)")


@pytest.mark.slow
def test_a_train_set_that_is_no_longer_needed_is_removed(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    pretrained = {"pretrained": "resemblyzer"}
    write_table(own.data / "train/text", {"a-1": "a"})  # a user's own
    assert own.prepare(data=own.folder / "mine", encoder=pretrained).status == 0
    assert files(own.data / "train") == {own.data / "train/text": b"a-1 a\n"}
    first = files(own.data / "align")
    assert own.prepare(data=own.folder / "mine").status == 0
    (own.data / "train/notes").write_text("mine\n")
    (own.data / "train/trials_own").write_text("")
    assert own.prepare(data=own.folder / "mine", encoder=pretrained).status == 0
    assert files(own.data / "train") == {own.data / "train/notes": b"mine\n"}
    assert not list(own.data.glob("manifests/train_*"))
    assert files(own.data / "align") == first
    (own.data / "train/notes").unlink()
    assert own.prepare(data=own.folder / "mine").status == 0
    assert own.prepare(data=own.folder / "mine", encoder=pretrained).status == 0
    assert not (own.data / "train").exists()


def test_places_are_looked_for_from_here_and_above_the_table(own: Own) -> None:
    utt2spk = write_audio_dir(own.folder / "exp/mine", range(12))
    wav = read_table(own.folder / "exp/mine/wav.scp")
    relative = {k: str(Path(v).relative_to(own.folder)) for k, v in wav.items()}
    write_table(own.folder / "exp/mine/wav.scp", relative)
    assert own.prepare(data=own.folder / "exp/mine").status == 0
    assert_divided(own, utt2spk)
    assert own.table("wav.scp") == wav


@pytest.mark.slow
def test_commands_are_run_only_where_that_is_allowed(own: Own) -> None:
    utt2spk = write_audio_dir(own.folder / "mine", range(12))
    wav = read_table(own.folder / "mine/wav.scp")
    mark = own.folder / "ran"
    write_table(
        own.folder / "mine/wav.scp",
        {name: f"touch {mark}; cat {place} |" for name, place in wav.items()},
    )
    refuse(own.prepare(data=own.folder / "mine"), "is a command", "corpus.allow_pipes=true")
    assert not mark.exists()
    done = own.prepare(data=own.folder / "mine", corpus={"allow_pipes": True})
    assert done.status == 0 and mark.exists()
    assert_divided(own, utt2spk)
    cut = next(iter(read_cuts(own.data, "eval")))
    assert np.abs(cut.load_audio()).max() > 0


@pytest.mark.slow
def test_commands_of_lhotse_manifests_need_the_same_permission(own: Own) -> None:
    utt2spk = write_audio_dir(own.folder / "kaldi", range(12))
    recordings, supervisions = lhotse_manifests(own, own.folder / "kaldi")
    folder, mark = own.folder / "mine", own.folder / "ran"
    folder.mkdir()
    for recording in recordings:
        source = recording.sources[0]
        source.type, source.source = "command", f"touch {mark}; cat {source.source}"
    recordings.to_file(folder / "recordings.jsonl.gz")
    supervisions.to_file(folder / "supervisions.jsonl.gz")
    refuse(own.prepare(data=folder), "utterance 'spk0", "is a command", "corpus.allow_pipes=true")
    assert not mark.exists()
    assert own.prepare(data=folder, corpus={"allow_pipes": True}).status == 0
    assert_divided(own, utt2spk)
    assert read_table(own.data / "eval/wav.scp").popitem()[1].endswith(" |")
    assert np.abs(next(iter(read_cuts(own.data, "eval"))).load_audio()).max() > 0


@pytest.mark.slow
@pytest.mark.parametrize("place", ["touch {mark}; cat {path} |", "pipe:touch {mark}"])
def test_features_of_lhotse_manifests_are_files(own: Own, place: str) -> None:
    mark = own.folder / "ran"
    write_lhotse_features(own, place.replace("{mark}", str(mark)))
    done = own.prepare(data=own.folder / "mine", encoder=GIVEN, corpus={"allow_pipes": True})
    refuse(done, "utterance 'spk0", "features", "no such file")
    assert not mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize("range_", ["", "[0:69]", "[0:69,0:6]"])
def test_features_of_lhotse_manifests(own: Own, range_: str) -> None:
    write_lhotse_features(own, "{path}" + range_)
    assert own.prepare(data=own.folder / "mine", encoder=GIVEN).status == 0
    cut = next(iter(read_cuts(own.data, "eval")))
    place = cut.features.storage_path
    assert place.endswith(range_)
    assert np.array_equal(cut.load_features(), kaldiio.load_mat(place.removesuffix(range_)))


def test_features_of_lhotse_manifests_have_the_frame_shift_of_the_models(own: Own) -> None:
    write_lhotse_features(own, "{path}")
    other = GIVEN | {"features": GIVEN["features"] | {"frame_shift": 0.02}}
    refuse(
        own.prepare(data=own.folder / "mine", encoder=other),
        "utterance 'spk0", "features every 0.01 s, the recipe's models take 0.02; set features.fra",
    )  # fmt: skip


def write_lhotse_features(own: Own, place: str) -> None:
    """A manifest of cuts with features; `place` says where they lie, {path} being their place."""
    write_audio_dir(own.folder / "kaldi", range(12))
    write_feature_dir(own.folder / "features", 12, 4, frames=70, dim=7)
    _, supervisions = lhotse_manifests(own, own.folder / "kaldi")
    paths = read_table(own.folder / "features/feats.scp").values()
    cuts = [
        MonoCut(
            id=segment.id, start=0, duration=0.7, channel=0, supervisions=[segment],
            features=given_features(segment.id, place.format(path=path)),
        )
        for segment, path in zip(supervisions, paths, strict=True)
    ]  # fmt: skip
    (own.folder / "mine").mkdir()
    CutSet.from_cuts(cuts).to_file(own.folder / "mine/cuts.jsonl.gz")


def given_features(name: str, place: str) -> Features:
    return Features(
        type="kaldiio", num_frames=70, num_features=7, frame_shift=0.01, sampling_rate=16000,
        start=0, duration=0.7, storage_type="kaldiio", storage_path=place, storage_key=name,
        recording_id=name, channels=0,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("frames", [70, 68])  # of 0.7 s, and with Kaldi's snip_edges
def test_features_of_segments_are_of_the_whole_segment(own: Own, frames: int) -> None:
    mine = own.folder / "mine"
    utt2spk = write_audio_dir(mine, range(12), segmented=True)
    write_feature_dir(own.folder / "features", 12, 4, frames=frames, dim=7)
    places = read_table(own.folder / "features/feats.scp").values()
    write_table(mine / "feats.scp", dict(zip(sorted(utt2spk), places, strict=True)))
    done = own.prepare(data=mine, encoder=GIVEN)
    assert done.status == 0, done
    assert_divided(own, utt2spk)
    expected = dict(zip(sorted(utt2spk), map(kaldiio.load_mat, places), strict=True))
    for cut in read_cuts(own.data, "eval"):
        assert np.array_equal(cut.load_features(), expected[cut.id])
        assert cut.load_audio().shape == (1, round(0.7 * 16000))


def test_more_features_than_audio_are_not_cut_off(own: Own) -> None:
    mine = own.folder / "mine"
    utt2spk = write_audio_dir(mine, range(12))
    write_feature_dir(own.folder / "features", 12, 4, frames=140, dim=7)
    places = read_table(own.folder / "features/feats.scp").values()
    write_table(mine / "feats.scp", dict(zip(sorted(utt2spk), places, strict=True)))
    refuse(
        own.prepare(data=mine, encoder=GIVEN), "feats.scp: 'spk0",
        "140 frames of 0.01 s are more than its audio, 0.70 s; set features.frame_shift",
    )  # fmt: skip
    halved = GIVEN | {"features": GIVEN["features"] | {"frame_shift": 0.005}}
    assert own.prepare(data=mine, encoder=halved).status == 0
    assert next(iter(read_cuts(own.data, "eval"))).load_features().shape == (140, 7)


@pytest.mark.slow
def test_faults_are_named(own: Own) -> None:
    mine = own.folder / "mine"
    utt2spk = write_audio_dir(mine, range(12), segmented=True)
    segments, wav = (mine / "segments").read_text(), (mine / "wav.scp").read_text()

    def spoil(name: str, old: str, new: str) -> Done:
        whole = (mine / name).read_text()
        assert old in whole
        (mine / name).write_text(whole.replace(old, new, 1))
        done = own.prepare(data=mine)
        (mine / name).write_text(whole)
        return done

    refuse(spoil("segments", "spk000_rec0_0 spk000_rec0 0.00 0.70\n", ""), "'spk000_rec0_0'")
    refuse(spoil("segments", "0.00 0.70", "0.00 9.70"), "does not lie in recording")
    refuse(spoil("segments", "0.00 0.70", "now 0.70"), "expected `recording start end`")
    refuse(spoil("wav.scp", "spk000_rec0.wav", "gone.wav"), "gone.wav")
    first = sorted(utt2spk)[0]
    refuse(spoil("utt2spk", f"{first} spk000", f"{first} spk0001"), "the speaker is no prefix of")
    (mine / "audio/spk000_rec0.wav").write_bytes(b"")
    refuse(own.prepare(data=mine), "spk000_rec0")
    done = own.prepare("--skip-bad", data=mine)
    assert done.status == 0, done
    skipped = list(own.data.glob("*/skipped"))
    assert len(skipped) == 1 and len(read_table(skipped[0])) == 2
    assert (mine / "segments").read_text() == segments and (mine / "wav.scp").read_text() == wav
    refuse(own.prepare(data=mine, held_out={"align": 3, "dev": 2}), "prepare.held_out")
    refuse(own.prepare(data=mine, held_out={"align": 9, "dev": 2, "eval": 3}), "12 speakers leave")
    empty = own.folder / "empty"
    empty.mkdir()
    refuse(own.prepare(data=empty), "neither a Kaldi data directory")


# --- copies and additional speakers of align ------------------------------------------------------

COPIES = {"slow": {"speed": 0.9}, "noise": {"snr": [5, 20]}, "room": {"reverb": True}}


@pytest.mark.slow
@pytest.mark.parametrize("segmented", [False, True])
def test_copies_are_made_of_align_alone(own: Own, segmented: bool) -> None:
    write_audio_dir(own.folder / "mine", range(12), segmented=segmented)
    done = own.prepare(data=own.folder / "mine", copies=COPIES)
    assert done.status == 0, done
    assert {n: len(found) for n, found in own.speakers().items()} == {
        "train": 4, "align": 6, "dev": 2, "eval": 3
    }  # fmt: skip
    assert len(read_utt2spk(own.data / "align")) == 3 * 4 * 4
    assert validate(own.data / "align") == []
    assert not (own.data / "dev/utt2copy").exists()
    assert "no recordings of kind noise in the corpus: made up" in done.out


@pytest.mark.slow
def test_what_is_no_longer_wanted_is_removed(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    own.prepare(data=own.folder / "mine", copies=COPIES)
    first = files(own.data)
    own.prepare("--nj", 2, data=own.folder / "mine", copies={"slow": COPIES["slow"]})
    assert [path.name for path in (own.data / "copies").iterdir()] == ["slow"]
    assert validate(own.data / "align") == []
    own.prepare(data=own.folder / "mine")
    assert not any((own.data / "copies").iterdir())
    assert not (own.data / "align/utt2copy").exists()
    own.prepare("--nj", 3, data=own.folder / "mine", copies=COPIES)
    assert files(own.data) == first


def test_copies_are_not_written_over_a_users_folder(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    recording = own.data / "copies/slow/spk1/a.wav"
    recording.parent.mkdir(parents=True)
    recording.touch()
    done = own.prepare(data=own.folder / "mine", copies=COPIES)
    refuse(done, f"{own.data / 'copies/slow'}: stage prepare did not make", "prepare.align_copies")
    assert recording.exists()


def test_noises_and_rooms_of_an_earlier_corpus_are_not_kept(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    sounds = own.folder / "mine/audio"
    write_backgrounds(own.data, [sounds], [sounds])
    assert read_background(own.data, "noise") and read_background(own.data, "rir")
    assert own.prepare(data=own.folder / "mine").status == 0
    assert read_background(own.data, "noise") is read_background(own.data, "rir") is None


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_copies_of_bad_audio_are_skipped_with_it(own: Own) -> None:
    utt2spk = write_audio_dir(own.folder / "mine", range(12))
    own.prepare(data=own.folder / "mine")
    first = min(read_utt2spk(own.data / "align"))
    path = own.folder / f"mine/audio/{first}.wav"
    path.write_bytes(path.read_bytes()[:1000])  # still a header
    done = own.prepare("--skip-bad", data=own.folder / "mine", copies=COPIES)
    assert done.status == 0, done
    assert list(read_table(own.data / "align/skipped")) == [first] and first in utt2spk
    assert len(read_utt2spk(own.data / "align")) == 11 * 4
    assert validate(own.data / "align") == []


@pytest.mark.slow
def test_there_are_no_copies_of_features(own: Own) -> None:
    write_feature_dir(own.folder / "mine", 12, 4, frames=50, dim=7)
    done = own.prepare(data=own.folder / "mine", encoder=GIVEN, copies=COPIES)
    refuse(done, "has given features, of which no copies can be made", "prepare.align_copies")
    assert len(done.err.splitlines()) == 1


@pytest.mark.slow
def test_speakers_of_another_corpus_are_added_to_align(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    others = write_audio_dir(own.folder / "others", range(20, 25))
    paths = {"data": own.folder / "mine", "align_also": own.folder / "others"}
    done = own.prepare(**paths, copies={"noise": COPIES["noise"]})
    assert done.status == 0, done
    speakers = own.speakers()
    assert speakers["align"] >= set(others.values()) and len(speakers["align"]) == 3 + 5
    assert not set(others.values()) & (speakers["train"] | speakers["dev"] | speakers["eval"])
    assert read_table(own.data / "align/utt2source") == dict.fromkeys(others, "align_also")
    assert len(read_utt2spk(own.data / "align")) == 3 * 4 * 2 + len(others)
    assert validate(own.data / "align") == []
    assert own.prepare(data=own.folder / "mine").status == 0
    assert not (own.data / "align/utt2source").exists()


@pytest.mark.parametrize("as_manifests", [False, True])
def test_ids_that_sort_otherwise_than_speakers_are_refused_before_a_set_is_written(
    own: Own, as_manifests: bool
) -> None:
    mine, others = own.folder / "mine", own.folder / "others"
    write_audio_dir(mine, range(12))
    wav = next((mine / "audio").iterdir())
    others.mkdir()
    if as_manifests:
        recording = Recording.from_file(wav, recording_id="x")
        RecordingSet.from_recordings([recording]).to_file(others / "recordings.jsonl")
        segment = SupervisionSegment("spk00_x", "x", 0, 0.5, speaker="spk00")
        SupervisionSet.from_segments([segment]).to_file(others / "supervisions.jsonl")
    else:
        write_table(others / "utt2spk", {"spk00_x": "spk00"})
        write_table(others / "wav.scp", {"spk00_x": str(wav)})
    done = own.prepare("--skip-bad", data=mine, align_also=others)
    refuse(done, f"{mine} and {others}: set 'align': sorted by utterance, speaker 'spk00' comes")
    assert not (own.data / "align").exists()


@pytest.mark.slow
@pytest.mark.parametrize("given", ["mine", "others"])
def test_additional_speakers_keep_domains_consistent(own: Own, given: str) -> None:
    utt2spk = {
        "mine": write_audio_dir(own.folder / "mine", range(12)),
        "others": write_audio_dir(own.folder / "others", range(20, 22)),
    }
    write_table(own.folder / given / "utt2domain", dict.fromkeys(utt2spk[given], "read"))
    paths = {"data": own.folder / "mine", "align_also": own.folder / "others"}
    assert own.prepare(**paths).status == 0
    assert (own.data / "align/utt2domain").exists() == (given == "mine")
    if given == "mine":
        domains = read_table(own.data / "align/utt2domain")
        assert {domains[u] for u in utt2spk["others"]} == {"align_also"}


def test_additional_speakers_are_nobody_of_the_corpus(own: Own) -> None:
    write_audio_dir(own.folder / "mine", range(12))
    write_audio_dir(own.folder / "others", range(11, 14))
    mine = own.folder / "mine"
    done = own.prepare(data=mine, align_also=own.folder / "others")
    refuse(done, "others: speaker 'spk011' is in the corpus as well", "corpus.paths.align_also")
    refuse(own.prepare(data=mine, align_also=own.folder / "no"), "(corpus.paths.align_also)")
    write_audio_dir(own.folder / "parts", range(20, 22), segmented=True)
    done = own.prepare(data=mine, align_also=own.folder / "parts")
    refuse(done, "set 'align'", "mine", "parts", "segments")
    assert not own.data.exists()


@pytest.mark.parametrize("name", ["align", "dev", "eval", "align_also"])
@pytest.mark.parametrize("in_table", [False, True])
def test_domains_by_which_no_list_can_be_called_are_refused_before_audio_is_read(
    own: Own, name: str, in_table: bool
) -> None:
    paths = {each: own.folder / each for each in (*SETS, "align_also")}
    for k, path in enumerate(paths.values()):
        write_audio_dir(path, range(2 * k, 2 * k + 2))
        domain = "tel/clean" if path.name in (name, "train") else "read"
        utt2spk = read_utt2spk(path)
        if in_table:
            write_table(path / "utt2domain", dict.fromkeys(utt2spk, domain))
        else:
            recordings, supervisions = lhotse_manifests(own, path)
            said = [fastcopy(one, custom={"domain": domain}) for one in supervisions]
            (path / "utt2spk").unlink()
            recordings.to_file(path / "recordings.jsonl.gz")
            SupervisionSet.from_segments(said).to_file(path / "supervisions.jsonl.gz")
    done = own.prepare(**paths)
    refuse(done, f"{paths[name]}, domains of set", "domain 'tel/clean'", "trials_tel/clean; rename")
    assert not own.data.exists()


def test_domains_of_a_train_set_may_have_any_name(own: Own, nessa: Command) -> None:
    utt2spk = write_audio_dir(own.folder / "mine", range(8))
    speakers = sorted(set(utt2spk.values()))
    set_of = {speaker: SETS[k // 2] for k, speaker in enumerate(speakers)}
    write_table(own.folder / "mine/spk2set", set_of)
    domains = {u: "tel/clean" if set_of[s] == "train" else "read" for u, s in utt2spk.items()}
    write_table(own.folder / "mine/utt2domain", domains)
    assert own.prepare(data=own.folder / "mine").status == 0
    done = nessa("validate", own.data)
    assert done.status == 0 and "tel/clean" not in done.err, done
    done = nessa("validate", own.folder / "mine")
    assert done.status == 0 and "mine/utt2domain: domain 'tel/clean' cannot" in done.err, done


def test_utterances_with_and_without_a_domain_are_refused(own: Own) -> None:
    given = {
        n: write_audio_dir(own.folder / n, r) for n, r in (("a", range(6)), ("b", range(6, 12)))
    }
    write_table(own.folder / "a/utt2domain", dict.fromkeys(given["a"], "read"))
    paths = {"train": own.folder / "a", "data": own.folder / "b"}
    done = own.prepare(**paths, includes_train=True, held_out={"dev": 2, "eval": 2})
    refuse(done, "set 'align': some utterances have a domain", "'spk0", "utt2domain")
    assert not own.data.exists()


@pytest.mark.parametrize("options", [(), ("--skip-bad",)])
def test_supervisions_with_and_without_a_domain_are_refused(
    own: Own, options: tuple[str, ...]
) -> None:
    lhotse = own.folder / "lhotse"
    lhotse.mkdir()
    write_audio_dir(own.folder / "kaldi", range(12))
    recordings, supervisions = lhotse_manifests(own, own.folder / "kaldi")
    some = [
        fastcopy(one, custom={"domain": "read"} if one.id.endswith("_1") else {})
        for one in supervisions
    ]
    recordings.to_file(lhotse / "recordings.jsonl.gz")
    SupervisionSet.from_segments(some).to_file(lhotse / "supervisions.jsonl.gz")
    done = own.prepare(*options, data=lhotse)
    refuse(done, "set 'train': some utterances have a domain", "_0', have none", "utt2domain")
    assert not own.data.exists()
