"""Mapping: what lands in the shared space, under which keys and which stamp."""

import copy
import shutil
from pathlib import Path

import kaldi_native_io
import numpy as np
import pytest

from nessa.alignment import Aligner, ProcrustesAligner
from nessa.errors import InputError
from nessa.files import read_json, write_json, write_table
from nessa.kaldi.datadir import read_utt2spk
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.production.mapping import map_sides
from nessa.recipe.mapping import map_system
from nessa.recipe.resolve import load_recipe
from nessa.recipe.systems import System
from nessa.scoring.cosine import cosine_scores
from tests.aligners import fitted, small, views_for
from tests.pairs import all_trials, two_views
from tests.toy import Toy


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return ProcrustesAligner().fit(*two_views(40, 2))


@pytest.fixture
def raw(tmp_path: Path) -> tuple[Path, Path]:
    """Embeddings directories of unseen speakers by the two models."""
    x, y, _ = two_views(4, 3, first_speaker=200)
    x.write(tmp_path / "x")
    y.write(tmp_path / "y")
    return tmp_path / "x", tmp_path / "y"


def test_each_side_is_mapped_by_its_own_map(aligner, raw, tmp_path):
    map_sides(aligner, *raw, None, tmp_path / "mapped")
    for side, directory, function in (
        ("enroll", raw[0], aligner.map_enroll),
        ("runtime", raw[1], aligner.map_runtime),
    ):
        before, after = Embeddings.read(directory), Embeddings.read(tmp_path / "mapped" / side)
        assert after.keys == before.keys
        np.testing.assert_allclose(after.matrix, function(before.matrix), atol=1e-6)


def test_a_profile_is_the_mean_in_the_models_own_space_mapped_then(aligner, raw, tmp_path):
    enrolled = Embeddings.read(raw[0])
    profiles = {"id00200-p3-0": enrolled.keys[:3], "id00201-p2-0": enrolled.keys[3:5]}
    write_table(tmp_path / "map", {name: " ".join(keys) for name, keys in profiles.items()})
    map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped")
    mapped = Embeddings.read(tmp_path / "mapped/enroll")
    assert mapped.keys == sorted([*enrolled.keys, *profiles])
    for name, keys in profiles.items():
        found = mapped.select([name]).matrix
        mean = enrolled.select(keys).matrix.mean(axis=0, keepdims=True)
        np.testing.assert_allclose(found, aligner.map_enroll(mean), atol=1e-6)
        # Not the same as averaging in the shared space, or the order would not matter.
        late = mapped.select(keys).matrix.mean(axis=0)
        assert np.abs(found - late / np.linalg.norm(late)).max() > 1e-4
    assert Embeddings.read(tmp_path / "mapped/runtime").keys == enrolled.keys  # without profiles


@pytest.mark.slow
@pytest.mark.parametrize("nj", [2, 5])
@pytest.mark.parametrize("kind", ["procrustes", "neural"])
def test_several_processes_map_the_same(tmp_path, nj, kind):
    aligner, raw = fitted(kind), (tmp_path / "x", tmp_path / "y")
    for view, place in zip(views_for(kind, 4, 3, first_speaker=200), raw, strict=False):
        view.write(place)
    space, stored = aligner.space(), copy.deepcopy(aligner.arrays)
    write_table(tmp_path / "map", {"id00200-p": "id00200-s0-00000 id00200-s0-00001"})
    for jobs in (7, nj, 1):  # parts of an earlier run with more of them go
        map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped", jobs)
        arks = sorted(path.name for path in (tmp_path / "mapped/enroll").glob("xvector.*.ark"))
        assert arks == [f"xvector.{part}.ark" for part in range(1, max(1, jobs // 2) + 1)]
        whole = [Embeddings.read(tmp_path / "mapped" / side) for side in ("enroll", "runtime")]
        if jobs > 1:
            several = whole
    for one, other in zip(whole, several, strict=True):
        assert one.keys == other.keys and one.stamp == other.stamp
        assert one.stamp.fingerprint == space == aligner.space()
        np.testing.assert_allclose(one.matrix, other.matrix, atol=1e-6)
    for name, array in stored.items():  # which networks share with what is sent to processes
        np.testing.assert_array_equal(aligner.arrays[name], array)


def test_a_run_that_is_killed_leaves_no_profiles_under_the_map_of_an_earlier_one(
    aligner, raw, tmp_path, monkeypatch
):
    one, two = Embeddings.read(raw[0]).keys[:2]
    write_table(tmp_path / "map", {"p": f"{one} {two}"})
    map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped")
    write_table(tmp_path / "map", {"p": one})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nessa.production.mapping.write_enroll_map", killed)
    with pytest.raises(KeyboardInterrupt):
        map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped")
    assert not (tmp_path / "mapped/enroll/xvector.scp").exists()


def test_mapped_vectors_of_a_killed_run_never_lack_their_model(aligner, raw, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nessa.kaldi.directory.complete", killed)
    with pytest.raises(KeyboardInterrupt):
        map_sides(aligner, *raw, None, tmp_path / "mapped")
    enroll = tmp_path / "mapped/enroll"
    assert not (enroll / "xvector.scp").exists()
    assert read_json(enroll / "info.json")["fingerprint"] == aligner.space()


def test_the_map_that_a_folder_keeps_may_be_given_to_map_into_it_again(aligner, raw, tmp_path):
    kept = tmp_path / "mapped/enroll/mapped_enroll_map"
    write_table(tmp_path / "map", {"p": " ".join(Embeddings.read(raw[0]).keys[:2])})
    for enroll_map in (tmp_path / "map", kept):
        map_sides(aligner, *raw, enroll_map, tmp_path / "mapped")
        assert kept.read_text() == (tmp_path / "map").read_text()


def test_a_single_utterance_is_its_own_profile(aligner, raw, tmp_path):
    key = Embeddings.read(raw[0]).keys[5]
    write_table(tmp_path / "map", {"id00201-p1-0": key})
    map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped")
    profile, utterance = (
        Embeddings.read(tmp_path / "mapped/enroll").select(["id00201-p1-0", key]).matrix
    )
    np.testing.assert_allclose(profile, utterance, atol=1e-6)


def test_a_profile_of_the_utterance_of_its_id_is_the_utterance(aligner, raw, tmp_path):
    keys = Embeddings.read(raw[0]).keys
    for more in ({}, {"id00200-p2-0": " ".join(keys[:2])}):
        write_table(tmp_path / "map", {keys[0]: keys[0]} | more)
        map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped")
        assert Embeddings.read(tmp_path / "mapped/enroll").keys == sorted([*keys, *more])
    write_table(tmp_path / "map", {keys[0]: " ".join(keys[:2])})
    with pytest.raises(InputError, match=rf"map: '{keys[0]}' is an utterance, and .*; rename it"):
        map_sides(aligner, *raw, tmp_path / "map", tmp_path / "mapped")


def test_both_sides_are_complete_and_stamped_with_the_space(aligner, raw, tmp_path):
    map_sides(aligner, *raw, None, tmp_path / "mapped")
    sides = [tmp_path / "mapped" / side for side in ("enroll", "runtime")]
    infos = [read_json(side / "info.json") for side in sides]
    assert infos[0]["fingerprint"] == infos[1]["fingerprint"]
    assert [info["model"] for info in infos] == ["x in procrustes space", "y in procrustes space"]
    for side, info in zip(sides, infos, strict=True):
        assert info["fingerprint"] not in aligner.fingerprints  # a mapped vector is no raw one
        with kaldi_native_io.SequentialFloatVectorReader(f"scp:{side / 'xvector.scp'}") as reader:
            vectors = {key: np.array(value) for key, value in reader}
        read = Embeddings.read(side)
        assert list(vectors) == read.keys
        np.testing.assert_array_equal(np.stack(list(vectors.values())), read.matrix)
        assert (info["count"], info["dim"]) == read.matrix.shape


@pytest.mark.slow
@pytest.mark.parametrize("nj", [1, 3, 8])
def test_a_store_of_profiles_is_mapped_by_itself(nessa, aligner, raw, tmp_path, nj, monkeypatch):
    monkeypatch.setattr("nessa.production.mapping.ROWS_PER_BLOCK", 5)
    aligner.save(tmp_path / "aligner")
    words = ["map", "--aligner", tmp_path / "aligner", "--output"]
    done = nessa(*words, tmp_path / "alone", "--enroll", raw[0], "--nj", nj)
    assert done.status == 0, done.err
    map_sides(aligner, *raw, None, tmp_path / "both")
    alone = Embeddings.read(tmp_path / "alone/enroll")
    both = Embeddings.read(tmp_path / "both/enroll")
    assert alone.keys == both.keys and (alone.matrix == both.matrix).all()
    assert alone.stamp == both.stamp and not (tmp_path / "alone/runtime").exists()
    assert all(ark.stat().st_size for ark in (tmp_path / "alone/enroll").glob("*.ark"))
    assert nessa(*words, tmp_path / "none").status == 2


def test_mapped_embeddings_are_not_mapped_again(nessa, aligner, raw, tmp_path):
    aligner.save(tmp_path / "aligner")
    words = ["map", "--aligner", tmp_path / "aligner", "--runtime", raw[1]]
    assert nessa(*words, "--enroll", raw[0], "--output", tmp_path / "mapped").status == 0
    done = nessa(*words, "--enroll", tmp_path / "mapped/enroll", "--output", tmp_path / "twice")
    done.refused("mapped/enroll", "'x in procrustes space'")
    assert not (tmp_path / "twice").exists()


def test_another_aligner_makes_another_space(aligner, raw, tmp_path):
    other = ProcrustesAligner().fit(*two_views(40, 2, first_speaker=500))
    stamps = []
    for number, one in enumerate((aligner, other, aligner)):
        map_sides(one, *raw, None, tmp_path / str(number))
        stamps.append(read_json(tmp_path / str(number) / "enroll/info.json")["fingerprint"])
    assert stamps[0] == stamps[2] != stamps[1]


def test_vectors_of_an_unknown_model_are_stamped_with_what_mapped_them(
    aligner, raw, tmp_path, caplog
):
    """Or scoring could not tell mapped from raw vectors, nor those of another aligner."""
    for directory in raw:
        (directory / "info.json").unlink()
    map_sides(aligner, *raw, None, tmp_path / "mapped")
    assert caplog.text.count("no info.json; is this the model") == 2  # once for each side
    for side in ("enroll", "runtime"):
        stamp = Embeddings.read(tmp_path / "mapped" / side).stamp
        assert stamp.is_mapped and stamp.model == "unknown model in procrustes space"
        assert (stamp.fingerprint, stamp.pair) == (aligner.space(), aligner.pair())
        assert stamp.map == aligner.map_digest(side)


@pytest.mark.parametrize(("known", "given"), [("arks:1", "x" * 64), ("x" * 64, "arks:1")])
def test_vectors_known_by_themselves_are_of_any_model(raw, tmp_path, caplog, known, given):
    x, y, speakers = two_views(40, 2)
    x.stamp = ModelStamp("old", known, "align")
    aligner = ProcrustesAligner().fit(x, y, speakers)
    info = read_json(raw[0] / "info.json")
    write_json(raw[0] / "info.json", info | {"fingerprint": given})
    map_sides(aligner, *raw, None, tmp_path / "mapped")
    assert caplog.text.count("cannot tell whether 'x' is the model that the aligner") == 1
    for other in ("arks:2", "y" * 64):
        if other.startswith("arks:") == known.startswith("arks:"):
            write_json(raw[0] / "info.json", info | {"fingerprint": other})
            with pytest.raises(InputError, match="embeddings are of model 'x'"):
                map_sides(aligner, *raw, None, tmp_path / "mapped")


@pytest.mark.parametrize(
    ("model", "fingerprint"), [("x in nessa space", "z" * 64), ("y", "y" * 64)]
)
def test_vectors_known_by_themselves_are_not_mapped_ones_nor_the_other_sides(
    raw, tmp_path, model, fingerprint
):
    x, y, speakers = two_views(40, 2)
    x.stamp = ModelStamp("old", "arks:1", "align")
    aligner = ProcrustesAligner().fit(x, y, speakers)
    info = read_json(raw[0] / "info.json")
    write_json(raw[0] / "info.json", info | {"model": model, "fingerprint": fingerprint})
    with pytest.raises(InputError, match=f"enrollment embeddings are of model '{model}'"):
        map_sides(aligner, *raw, None, tmp_path / "mapped")


def test_a_system_has_all_that_it_is_scored_on_mapped(aligner, tmp_path):
    toy = Toy(tmp_path)
    write_table(toy.data / "eval/enroll_map", {"id00200-p1-0": "id00200-s0-00000"})
    for name in ("nessa", "nessa.seed2"):
        aligner.save(toy.exp / "aligners" / name / "x-y")
        lines = list(map_system(load_recipe(toy.recipe), toy.data, toy.exp, System(name, "x", "y")))
        assert all("none unlike the align data" in line for line in lines), lines
    mapped = toy.exp / "mapped/nessa/x-y"
    keys = {path.parent.name: Embeddings.read(path).keys for path in mapped.glob("*/enroll")}
    assert "id00200-p1-0" in keys["eval"]
    assert len(keys["dev"]) == 10  # without profiles
    for side, model in (("enroll", toy.x), ("runtime", toy.y)):
        cohort = Embeddings.read(mapped / "cohort" / side)
        assert len(cohort) == 40
        means = Embeddings.read(model / "align/spk_xvector.scp")
        function = {"enroll": aligner.map_enroll, "runtime": aligner.map_runtime}[side]
        np.testing.assert_array_equal(cohort.matrix, function(means.matrix))
    # AS-norm is left to the first seed.
    assert not (toy.exp / "mapped/nessa.seed2/x-y/cohort").exists()


def test_plain_dot_products_of_mapped_arks_are_our_scores(tmp_path):
    """As Kaldi's ivector-compute-dot-products has them, of vectors as they lie in the arks."""
    nessa = fitted("neural")
    x, y, speakers = views_for("neural", 4, 3, first_speaker=200)
    x.write(tmp_path / "x")
    y.write(tmp_path / "y")
    map_sides(nessa, tmp_path / "x", tmp_path / "y", None, tmp_path / "mapped")
    enroll, runtime = (tmp_path / "mapped" / side for side in ("enroll", "runtime"))
    trials = all_trials(speakers)
    scores = cosine_scores(Embeddings.read(enroll), Embeddings.read(runtime), trials)
    a, b = (
        kaldi_native_io.RandomAccessFloatVectorReader(f"scp:{side / 'xvector.scp'}")
        for side in (enroll, runtime)
    )
    products = [np.dot(a[e], b[t]) for e, t in zip(trials.enroll, trials.test, strict=True)]
    np.testing.assert_allclose(products, scores, atol=1e-4)
    assert np.ptp(scores) > 0.01


@pytest.mark.parametrize("given", ["folder", "ark", "list of its arks", "folder of a list", "link"])
def test_raw_embeddings_are_never_written_over(nessa, aligner, tmp_path, given):
    aligner.save(tmp_path / "aligner")
    folder = tmp_path / "out/enroll"
    two_views(4, 3, first_speaker=200)[0].write(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    source = {"folder": folder, "ark": folder / "xvector.1.ark", "link": tmp_path / "link"}
    source["list of its arks"] = shutil.copy(folder / "xvector.scp", tmp_path / "some.scp")
    source["folder of a list"] = tmp_path / "other"
    source["folder of a list"].mkdir()
    shutil.copy(folder / "xvector.scp", tmp_path / "other")
    (tmp_path / "link").symlink_to(folder)
    words = "map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"
    for more in ((), ("--dry-run",), ("--nj", 2)):
        done = nessa(*words, "--enroll", source[given], *more)
        done.refused(str(source[given]), "would be lost; give another --output")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_raw_embeddings_of_one_side_are_not_written_over_by_the_other(nessa, aligner, tmp_path):
    """As those that the mirror takes, in folders by the names of the sides that they were."""
    aligner.mirrored().save(tmp_path / "aligner")
    enroll, runtime = tmp_path / "out/enroll", tmp_path / "out/runtime"
    for view, place in zip(two_views(4, 3, first_speaker=200), (enroll, runtime), strict=False):
        view.write(place)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    words = "map", "--aligner", tmp_path / "aligner", "--output", tmp_path / "out"
    done = nessa(*words, "--enroll", runtime, "--runtime", enroll)
    done.refused(f"{runtime}: lies in {runtime}", "would be lost; give another --output")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*")} == before
    shutil.rmtree(enroll)
    assert nessa(*words, "--enroll", runtime).status == 0  # nothing is written to its folder
    assert runtime.joinpath("xvector.1.ark").read_bytes() == before[runtime / "xvector.1.ark"]


def test_the_embeddings_of_the_other_model_are_not_written_over_by_those_of_the_mirror(
    nessa, aligner, raw, tmp_path
):
    aligner.save(tmp_path / "first")
    aligner.mirrored().save(tmp_path / "mirror")
    out = tmp_path / "out"
    first = ["map", "--aligner", tmp_path / "first", "--enroll", raw[0]]
    mirror = ["map", "--aligner", tmp_path / "mirror", "--enroll", raw[1]]
    assert nessa(*first, "--output", out).status == 0
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    for more in ((), ("--dry-run",), ("--nj", 2)):
        done = nessa(*mirror, "--output", out, *more)
        done.refused(f"{out}/enroll: ", "of the other model", "another --output")
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before
    assert nessa(*mirror, "--output", tmp_path / "own").status == 0
    (out / "enroll/info.json").write_text("{}")  # what is spoilt is made anew
    assert nessa(*mirror, "--output", out).status == 0


def test_another_aligner_maps_into_the_folder_as_a_recipe_does(aligner, raw, tmp_path):
    other = ProcrustesAligner().fit(*two_views(40, 2, first_speaker=500))
    for one in (aligner, other):
        map_sides(one, *raw, None, tmp_path / "mapped")
        assert Embeddings.read(tmp_path / "mapped/enroll").stamp.map == one.map_digest("enroll")


def test_a_recipe_whose_models_are_exchanged_is_mapped_anew(tmp_path):
    """In the same space still: `logit` is fitted to each model alone."""
    toy, system = Toy(tmp_path), System("logit", "x", "y")
    mapped = toy.exp / "mapped/logit/x-y/eval"
    for _ in range(2):
        for name in ("align", "dev", "eval"):
            of_speakers = read_utt2spk(toy.data / name)
            x, y = (Embeddings.read(model / name) for model in (toy.x, toy.y))
            y.write(toy.x / name, of_speakers)
            x.write(toy.y / name, of_speakers)
        sides = (Embeddings.read(model / "align") for model in (toy.x, toy.y))
        logit = small("logit").fit(*sides, read_utt2spk(toy.data / "align"))
        logit.save(toy.exp / "aligners/logit/x-y")
        list(map_system(load_recipe(toy.recipe), toy.data, toy.exp, system))
        assert Embeddings.read(mapped / "enroll").stamp.map == logit.map_digest("enroll")


def odd_among(count: int, total: int) -> Embeddings:
    """Embeddings of the enrollment model, of which the last ones are far from all others."""
    rng = np.random.default_rng(5)
    x = two_views(4, 3, first_speaker=200)[0].matrix
    plain = x[rng.integers(len(x), size=total)]
    plain[total - count :] = -x.mean(axis=0) + rng.standard_normal((count, x.shape[1])) / 100
    return Embeddings([f"u{row:06d}" for row in range(total)], plain)


@pytest.mark.parametrize("nj", [1, 3])
def test_outliers_are_judged_among_all_and_not_by_block(aligner, tmp_path, monkeypatch, nj):
    monkeypatch.setattr("nessa.production.mapping.ROWS_PER_BLOCK", 40)
    odd_among(20, 100).write(tmp_path / "few")
    few = tmp_path / "few", None, None, tmp_path / "mapped"
    (line,) = map_sides(aligner, *few, nj, dry_run=True)
    assert "100 embeddings would be mapped" in line and "unlike the align data" in line
    assert not (tmp_path / "mapped").exists()
    (line,) = map_sides(aligner, *few, nj)
    assert "100 embeddings mapped; 2" in line and "unlike the align data" in line
    odd_among(60, 100).write(tmp_path / "most")
    before = {path: path.read_bytes() for path in (tmp_path / "mapped").rglob("*.*")}
    # What an earlier run has mapped remains, also where the other side is refused.
    for sides, told in ((("most", None), "of another model"), (("few", "most"), "takes 20")):
        places = [name and tmp_path / name for name in sides]
        with pytest.raises(InputError, match=rf"most: .*{told}"):
            map_sides(aligner, *places, None, tmp_path / "mapped", nj)
        assert {path: path.read_bytes() for path in (tmp_path / "mapped").rglob("*.*")} == before
