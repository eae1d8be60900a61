"""Export: the ONNX files map as the aligner does, and say what they are for."""

import copy
import importlib
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import nessa.production.onnx
from nessa.alignment import ALIGNERS, Aligner
from nessa.alignment.views import SIDES, Labels, Matrix, Side
from nessa.errors import InputError
from nessa.evaluation.threshold import threshold_facts
from nessa.files import read_json, write_json, write_table
from nessa.kaldi.embeddings import Embeddings
from nessa.kaldi.stamps import ModelStamp
from nessa.production.export_aligner import export_aligner
from nessa.production.verify import verify_model
from nessa.scoring.calibration import Calibration
from nessa.trials import Trials, write_scores
from tests.aligners import small
from tests.conftest import ROOT, Command

DIMS = {"enroll": 12, "runtime": 8}
FINGERPRINTS = {"enroll": "a" * 64, "runtime": "b" * 64}
QUICK = ("logit", "neural")


def fitted(kind: str, stamped: bool = True, **settings: str) -> Aligner:
    """To 20 speakers, with embeddings of `DIMS`; raw needs equal ones."""
    rng = np.random.default_rng(3)
    speakers = {f"s{s:02d}-u{u}": f"s{s:02d}" for s in range(20) for u in range(6)}
    hidden = np.repeat(rng.standard_normal((20, 8)), 6, axis=0)
    views = []
    for side, dim in (dict.fromkeys(DIMS, 8) if kind == "raw" else DIMS).items():
        noisy = hidden @ rng.standard_normal((8, dim)) + 0.5 * rng.standard_normal((120, dim))
        stamp = ModelStamp(side, FINGERPRINTS[side], "align") if stamped else None
        views.append(Embeddings(speakers, noisy + 1, stamp))
    return small(kind, **settings).fit(*views, speakers)


@pytest.fixture(
    scope="module",
    params=[
        *(
            pytest.param((kind, {}), marks=[] if kind in QUICK else pytest.mark.slow, id=kind)
            for kind in ALIGNERS
        ),
        pytest.param(
            ("neural", {"mode": "to-enroll"}), marks=pytest.mark.slow, id="neural to-enroll"
        ),
    ],
)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Aligner, Path, list[str]]:
    kind, settings = request.param
    aligner, output = fitted(kind, **settings), tmp_path_factory.mktemp("onnx")
    return aligner, output, list(export_aligner(aligner, output))


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(["mapped"], {"embedding": batch})[0]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["cca", "ridge"])
def test_a_fused_cosine_maps_batches_of_any_size(start: str, tmp_path: Path) -> None:
    aligner = fitted("neural", start=start)
    list(export_aligner(aligner, tmp_path))
    for side, dim in DIMS.items():
        for count in (1, 7):
            batch = np.random.default_rng(count).standard_normal((count, dim)).astype(np.float32)
            wanted = aligner.map_side(batch, side)  # type: ignore[arg-type]
            np.testing.assert_allclose(run(tmp_path / f"{side}.onnx", batch), wanted, atol=1e-5)


@pytest.mark.slow
def test_the_exporter_does_not_warn_of_its_own_calls(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    list(export_aligner(fitted("logit"), tmp_path))
    assert not [warning for warning in recwarn if warning.category is FutureWarning]


@pytest.mark.slow
@pytest.mark.parametrize("side", DIMS)
def test_files_map_as_the_aligner_does(
    exported: tuple[Aligner, Path, list[str]], side: Side
) -> None:
    aligner, output, _ = exported
    rng = np.random.default_rng(11)
    for rows in (1, 2, 64):
        batch = rng.standard_normal((rows, aligner.input_dim(side))).astype(np.float32)
        mapped = run(output / f"{side}.onnx", batch)
        assert mapped.dtype == np.float32
        np.testing.assert_allclose(mapped, aligner.map_side(batch, side), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(mapped, axis=1), 1, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("side", DIMS)
def test_files_carry_their_identity_and_no_paths(
    exported: tuple[Aligner, Path, list[str]], side: Side
) -> None:
    aligner, output, _ = exported
    path = output / f"{side}.onnx"
    properties = {p.key: p.value for p in onnx.load(path).metadata_props}
    assert properties["model_fingerprint"] == FINGERPRINTS[side]
    assert (properties["kind"], properties["side"]) == (aligner.kind, side)
    dim = aligner.input_dim(side)
    assert int(properties["input_dim"]) == dim
    mapped = run(path, np.ones((3, dim), np.float32))
    assert int(properties["output_dim"]) == mapped.shape[1]
    assert str(Path.cwd()).encode() not in path.read_bytes()


@pytest.mark.slow
def test_model_card_and_lines_name_both_networks(
    exported: tuple[Aligner, Path, list[str]],
) -> None:
    aligner, output, lines = exported
    card = (output / "README.md").read_text()
    for side, line in zip(SIDES, lines, strict=True):
        dim = aligner.input_dim(side)
        assert f"{side}.onnx" in line and f"{dim} ->" in line
        assert f"`{side}.onnx` | {dim} |" in card
        assert FINGERPRINTS[side] in card
    assert "biometric" in card


@pytest.mark.slow
def test_another_dimension_is_refused(exported: tuple[Aligner, Path, list[str]]) -> None:
    aligner, output, _ = exported
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument):
        run(output / "enroll.onnx", np.zeros((1, aligner.input_dim("enroll") + 1), np.float32))


@pytest.mark.slow
def test_same_unstamped_aligner_gives_the_same_bytes_quietly(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    aligner = fitted("procrustes", stamped=False)
    with caplog.at_level(logging.INFO):
        for copy in "ab":
            list(export_aligner(aligner, tmp_path / copy))
    for name in ("enroll.onnx", "runtime.onnx", "README.md"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "`unknown`" in (tmp_path / "a" / "README.md").read_text()
    assert capfd.readouterr().out == ""
    assert not [record for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.slow
def test_vectors_known_by_themselves_name_no_model(tmp_path: Path) -> None:
    aligner = fitted("procrustes")
    aligner.fingerprints = "arks:1", FINGERPRINTS["runtime"]
    export_aligner(aligner, tmp_path)
    for side, wanted in (("enroll", "unknown"), ("runtime", FINGERPRINTS["runtime"])):
        properties = {p.key: p.value for p in onnx.load(tmp_path / f"{side}.onnx").metadata_props}
        assert properties["model_fingerprint"] == wanted


@pytest.mark.slow
def test_a_network_that_differs_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aligner = fitted("procrustes")
    exact = aligner.map_side
    monkeypatch.setattr(aligner, "map_side", lambda *args: exact(*args) + np.float32(1e-4))
    with pytest.raises(RuntimeError, match=r"enroll\.onnx differs"):
        list(export_aligner(aligner, tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_aligner_without_a_network_or_a_fit_is_refused(tmp_path: Path) -> None:
    class Identity(Aligner):
        kind = "identity"

        def _fit(self, enroll: Matrix, runtime: Matrix, labels: Labels, dev: object) -> None:
            self.arrays = {f"{side}_none": np.zeros(0) for side in SIDES}

        def input_dim(self, side: Side) -> int:
            return 8

        def _map(self, matrix: Matrix, side: Side) -> Matrix:
            return matrix

    with pytest.raises(InputError, match="identity aligner is not fitted"):
        list(export_aligner(Identity(), tmp_path))
    identity = Identity().fit(*(view := Embeddings("ab", np.eye(2, 8)), view), {"a": "a", "b": "b"})
    with pytest.raises(InputError, match="'identity' cannot be exported"):
        list(export_aligner(identity, tmp_path))


def test_the_network_that_a_killed_run_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".enroll.onnx.k1ll3d__.tmp").touch()
    nessa.production.onnx.write_export(tmp_path, {"enroll.onnx": b"a"}, "a card")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "enroll.onnx"]


def test_a_card_of_other_networks_is_not_written_over(tmp_path: Path) -> None:
    for card in ("a card", "a newer card"):
        nessa.production.onnx.write_export(tmp_path, {"encoder.onnx": b"e"}, card)
        (tmp_path / "encoder.int8.onnx").write_bytes(b"the user's, made of it")
    with pytest.raises(
        InputError, match=r"README\.md: is the model card of encoder\.onnx, .*--out"
    ):
        nessa.production.onnx.write_export(tmp_path, {"enroll.onnx": b"a"}, "another card")
    assert (tmp_path / "README.md").read_text().startswith("a newer card")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "README.md",
        "encoder.int8.onnx",
        "encoder.onnx",
    ]


@pytest.mark.slow
def test_a_readme_that_is_no_card_is_not_written_over(nessa: Command, tmp_path: Path) -> None:
    fitted("logit").save(tmp_path / "aligner")
    words = "export", "--aligner", tmp_path / "aligner", "--output", tmp_path / "to"
    readme = tmp_path / "to/README.md"
    readme.parent.mkdir()
    readme.write_bytes("# My project, \u00fc\n".encode("latin-1"))
    nessa(*words).refused(f"{readme}: not a model card of nessa", "give another --output")
    assert readme.read_bytes().startswith(b"# My project")
    assert list(readme.parent.iterdir()) == [readme]
    readme.unlink()
    assert nessa(*words).status == nessa(*words, "--license", "MIT").status == 0
    assert "License: MIT" in readme.read_text()


def test_missing_extra_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime.*pip install 'nessa\[onnx\]'"):
        importlib.reload(nessa.production.onnx)
    monkeypatch.undo()
    importlib.reload(nessa.production.onnx)


# --- in a product -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> tuple[Aligner, Path]:
    """An exported aligner with a calibration, beside itself."""
    aligner, folder = fitted("neural"), tmp_path_factory.mktemp("product")
    aligner.save(folder / "aligner")
    facts = {"license": "Apache-2.0", "training_data": "synthetic speakers"}
    list(export_aligner(aligner, folder, Calibration(9.5, -3.25), facts))
    return aligner, folder


@pytest.mark.slow
def test_verify_tells_what_a_network_is_and_holds_it_against_its_aligner(
    nessa: Command, product: tuple[Aligner, Path]
) -> None:
    _, folder = product
    paths = [folder / f"{side}.onnx" for side in DIMS]
    done = nessa("verify", *paths, "--aligner", folder / "aligner")
    assert done.status == 0, done.err
    for text in ("12 -> 15", "8 -> 15", "a" * 64, "b" * 64, "opset: 20", "license: Apache-2.0"):
        assert text in done.out
    assert "calibration_scale: 9.5" in done.out and "training_data: synthetic speakers" in done.out
    assert done.out.count("of the aligner on 10,000 embeddings") == 2
    card = (folder / "README.md").read_text()
    assert "Calibration scale: 9.5" in card and "License: Apache-2.0" in card


@pytest.mark.slow
def test_verify_refuses_what_is_not_ours_or_of_another_aligner(
    nessa: Command, product: tuple[Aligner, Path], tmp_path: Path
) -> None:
    _, folder = product
    path = folder / "enroll.onnx"
    fitted("procrustes").save(tmp_path / "other")
    nessa("verify", path, "--aligner", tmp_path / "other").refused(str(path), "another aligner")
    nessa("verify", path, "--encoder", tmp_path).refused(f"{path}: to compare", "give --aligner")
    nessa("verify", tmp_path / "none.onnx").refused("none.onnx: no such file")
    nessa("verify", tmp_path).refused(f"{tmp_path}: is a folder; name an .onnx file in it")
    (tmp_path / "bad.onnx").write_bytes(path.read_bytes()[:500])
    nessa("verify", tmp_path / "bad.onnx").refused("bad.onnx: not an ONNX model")
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "bare.onnx")
    nessa("verify", tmp_path / "bare.onnx").refused(
        "bare.onnx: not an aligner or encoder that nessa exported"
    )
    model = onnx.load(path)
    weights = next(one for one in model.graph.initializer if len(one.dims) == 2)
    changed = onnx.numpy_helper.to_array(weights) * 1.1
    weights.CopyFrom(onnx.numpy_helper.from_array(changed, weights.name))
    onnx.save(model, tmp_path / "changed.onnx")
    done = nessa("verify", tmp_path / "changed.onnx", "--aligner", folder / "aligner")
    done.refused("changed.onnx: differs from the aligner by")


@pytest.mark.slow
def test_verify_refuses_the_calibration_of_before_a_side_was_fitted_anew(
    product: tuple[Aligner, Path], tmp_path: Path
) -> None:
    """The map of the frozen side, and so its network, is still right."""
    frozen, folder = product
    aligner = copy.deepcopy(frozen)
    aligner.joined = frozen.space()
    name = next(name for name in aligner.arrays if name.startswith("runtime"))
    aligner.arrays[name] = aligner.arrays[name] * 1.5
    with pytest.raises(InputError, match=r"enroll\.onnx: its calibration or threshold is of befor"):
        list(verify_model(folder / "enroll.onnx", aligner))
    model = onnx.load(folder / "enroll.onnx")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    for left_out in (["pair"], ["calibration_scale", "calibration_offset"]):  # one of before
        onnx.helper.set_model_props(model, {k: facts[k] for k in facts if k not in left_out})
        onnx.save(model, tmp_path / "enroll.onnx")
        assert "within" in list(verify_model(tmp_path / "enroll.onnx", aligner))[-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["procrustes", "neural"])
@pytest.mark.parametrize(("dim", "stamped"), [(12, True), (8, False)])
def test_verify_names_the_mirror(
    kind: str, dim: int, stamped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a ratio, and where both models have one dimension, and none is known."""
    monkeypatch.setitem(DIMS, "enroll", dim)
    aligner = fitted(kind, stamped)
    list(export_aligner(aligner, tmp_path, Calibration(9.5, -3.25)))
    for side in SIDES:
        told = rf"{side}\.onnx: exported from the mirror of this aligner; give that one"
        with pytest.raises(InputError, match=told):
            list(verify_model(tmp_path / f"{side}.onnx", aligner.mirrored()))
        assert "within" in list(verify_model(tmp_path / f"{side}.onnx", aligner))[-1]


@pytest.mark.slow
def test_verify_refuses_the_network_of_a_model_whose_side_another_one_has_joined(
    product: tuple[Aligner, Path], tmp_path: Path
) -> None:
    model = onnx.load(product[1] / "enroll.onnx")
    facts = {p.key: p.value for p in model.metadata_props if "calibration" not in p.key}
    onnx.helper.set_model_props(model, facts)
    onnx.save(model, tmp_path / "enroll.onnx")
    joined = fitted("raw")  # of 8 dimensions on both sides
    joined.joined = product[0].space()
    with pytest.raises(InputError, match=r"enroll\.onnx: takes 12 dimensions, .*aligner 8: of"):
        list(verify_model(tmp_path / "enroll.onnx", joined))


def test_a_calibration_that_needs_more_than_the_score_is_refused(tmp_path: Path) -> None:
    calibration = Calibration(1.0, 0.0, {"log_duration": 0.5})
    with pytest.raises(InputError, match=r"log_duration.*knows the score alone"):
        list(export_aligner(fitted("logit"), tmp_path, calibration))
    assert not list(tmp_path.iterdir())


def test_a_calibration_of_normalized_scores_is_refused(nessa: Command, tmp_path: Path) -> None:
    aligner = fitted("logit")
    aligner.save(tmp_path / "aligner")
    found = Calibration(1.0, 0.0, pair=aligner.pair(), method="as_norm")
    write_json(tmp_path / "found.json", found.to_dict())
    export = ["export", "--aligner", tmp_path / "aligner", "--output", tmp_path / "onnx"]
    done = nessa(*export, "--calibration", tmp_path / "found.json")
    done.refused("found.json: is of scores by as_norm, and one of scores by cosine is wanted")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.slow
def test_what_is_of_the_scores_of_another_aligner_is_refused(
    nessa: Command, tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(400) < 200
    trials = Trials([f"e{n}" for n in range(400)], [f"t{n}" for n in range(400)], labels)
    trials.write(tmp_path / "trials")
    write_scores(tmp_path / "scores", trials, 0.1 * (labels + rng.standard_normal(400)))
    speakers = {f"e{n}": f"s{n % 200}" for n in range(400)}
    speakers |= {f"t{n}": f"s{(n + n // 200) % 200}" for n in range(400)}
    write_table(tmp_path / "utt2spk", speakers)
    own, other = fitted("logit"), fitted("procrustes")
    own.save(tmp_path / "own")
    own.mirrored().save(tmp_path / "mirror")
    other.save(tmp_path / "other")
    given = ["--trials", tmp_path / "trials"]
    old_and_new = ["--old", tmp_path / "scores", "--new", tmp_path / "scores"]
    more = ["--convention", "score", "--draws", 2, "--utt2spk", tmp_path / "utt2spk"]
    kinds = {
        "calibration": ["calibrate", *given, "--scores", tmp_path / "scores"],
        "threshold": ["threshold", "--threshold", 0.05, *given, *old_and_new, *more],
    }
    export = ["export", "--aligner", tmp_path / "own", "--output", tmp_path / "onnx"]
    for kind, words in kinds.items():
        file = tmp_path / f"{kind}.json"
        assert nessa(*words, "--output", file, "--aligner", tmp_path / "other").status == 0
        nessa(*export, f"--{kind}", file).refused(f"{file}: is of another aligner's scores")
        assert nessa(*words, "--output", file, "--aligner", tmp_path / "mirror").status == 0
        nessa(*export, f"--{kind}", file).refused(
            f"{file}: is of the scores of the opposite update"
        )
        assert not (tmp_path / "onnx").exists()
        assert nessa(*words, "--output", file, "--aligner", tmp_path / "own").status == 0
        export += [f"--{kind}", file]
    assert read_json(tmp_path / "calibration.json")["space"] == own.space()
    record = read_json(tmp_path / "threshold.json")
    made_by = ("pair", "enroll")
    write_json(tmp_path / "threshold.json", {k: record[k] for k in record if k not in made_by})
    done = nessa(*export)  # and what an earlier version made is taken as it is
    assert done.status == 0, done
    assert done.err.count("threshold.json: does not say which aligner's scores it is of") == 1
    assert done.err.count("does not say") == 1
    for side in DIMS:
        network = onnx.load(tmp_path / "onnx" / f"{side}.onnx")
        told = {one.key: one.value for one in network.metadata_props}
        assert float(told["threshold"]) == record["threshold"]
    write_json(tmp_path / "threshold.json", record | {"threshold": -1.5})
    nessa(*export).refused("threshold.json: -1.5 is no threshold of cosines", "with --aligner")


@pytest.mark.slow
def test_the_example_verifies_with_onnxruntime_and_numpy_alone(
    product: tuple[Aligner, Path], tmp_path: Path
) -> None:
    aligner, folder = product
    rng = np.random.default_rng(5)
    profiles = {name: rng.standard_normal((3, 12)).astype(np.float32) for name in ("ann", "bob")}
    tests = {name: rng.standard_normal(8).astype(np.float32) for name in ("u1", "u2")}
    np.savez(tmp_path / "profiles.npz", **profiles)
    np.savez(tmp_path / "tests.npz", model_fingerprint=FINGERPRINTS["runtime"], **tests)
    example = ROOT / "docs/examples/verify.py"
    assert not re.search(r"^(import|from) (nessa|torch)", example.read_text(), re.M)
    words = [sys.executable, example, folder, tmp_path / "profiles.npz"]
    done = subprocess.run([*words, tmp_path / "tests.npz"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        speaker, utterance, ratio = line.split()
        a = aligner.map_enroll(profiles[speaker].mean(axis=0, keepdims=True))[0]
        b = aligner.map_runtime(tests[utterance][None])[0]
        assert float(ratio) == pytest.approx(9.5 * (a @ b) - 3.25, abs=1e-3)
    assert len(done.stdout.splitlines()) == 4
    wrong = subprocess.run([*words, tmp_path / "profiles.npz"], capture_output=True, text=True)
    assert wrong.returncode == 1 and "12 dimensions, but this network takes 8" in wrong.stderr
    np.savez(tmp_path / "tests.npz", model_fingerprint="arks:1", **tests)
    assert subprocess.run([*words, tmp_path / "tests.npz"], capture_output=True).returncode == 0
    np.savez(tmp_path / "tests.npz", model_fingerprint="c" * 64, **tests)
    other = subprocess.run([*words, tmp_path / "tests.npz"], capture_output=True, text=True)
    assert other.returncode == 1 and f"another model than {'b' * 64}" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize("unsure", [True, False])
def test_the_example_accepts_from_the_threshold_on(
    product: tuple[Aligner, Path], tmp_path: Path, unsure: bool
) -> None:
    """Scores at a threshold, and at an end of the band, are those of the tests themselves."""
    rng = np.random.default_rng(6)
    spoken = {f"u{n}": rng.standard_normal(8).astype(np.float32) for n in range(5)}
    profile = np.ones(12, np.float32)
    np.savez(tmp_path / "profiles.npz", ann=profile)
    np.savez(tmp_path / "tests.npz", **spoken)
    vector = run(product[1] / "enroll.onnx", profile[None])[0]
    scores = {
        name: float(vector @ run(product[1] / "runtime.onnx", own[None])[0])
        for name, own in spoken.items()
    }
    ranked = sorted(scores, key=scores.__getitem__)
    low, middle, high = (scores[name] for name in ranked[1:4])
    band = [low, high] if unsure else None
    write_json(tmp_path / "threshold.json", {"threshold": middle, "far": 0.01, "unsure": band})
    own = product[0].pair(), product[0].map_digest("enroll")
    facts = threshold_facts(tmp_path / "threshold.json", *own)
    list(export_aligner(product[0], tmp_path, Calibration(9.5, -3.25), facts))
    card = (tmp_path / "README.md").read_text()
    assert "Accept a dot product (not a likelihood ratio) of at least `threshold`" in card
    assert ("From `unsure from` to below `unsure to`, ask for more speech" in card) == unsure
    files = tmp_path / "profiles.npz", tmp_path / "tests.npz"
    words = [sys.executable, ROOT / "docs/examples/verify.py", tmp_path, *files]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    decided = {line.split()[1]: line.split()[3] for line in done.stdout.splitlines()}
    inner = ["unsure", "unsure"] if unsure else ["reject", "accept"]
    assert [decided[name] for name in ranked] == ["reject", *inner, "accept", "accept"]


@pytest.mark.slow
def test_the_example_takes_all_embeddings_where_the_aligner_knows_no_model(tmp_path: Path) -> None:
    unstamped = fitted("logit", stamped=False)
    list(export_aligner(unstamped, tmp_path, Calibration(9.5, -3.25)))
    words: list[object] = [sys.executable, ROOT / "docs/examples/verify.py", tmp_path]
    for side, dim in DIMS.items():
        file = tmp_path / f"{side}.npz"
        np.savez(file, model_fingerprint=FINGERPRINTS[side], one=np.ones(dim, np.float32))
        words.append(file)
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("one one "), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("calibration_offset", "-20.5"),
        ("threshold", "0.4"),
        ("unsure_to", "0.6"),
        ("pair", "f" * 64),
    ],
)
def test_the_example_refuses_networks_of_two_exports_that_decide_differently(
    product: tuple[Aligner, Path], tmp_path: Path, name: str, value: str
) -> None:
    for side in DIMS:
        model = onnx.load(product[1] / f"{side}.onnx")
        if side == "runtime":  # as after an update of it alone, in the same space
            facts = {p.key: p.value for p in model.metadata_props} | {name: value}
            onnx.helper.set_model_props(model, facts)
        onnx.save(model, tmp_path / f"{side}.onnx")
    words = [sys.executable, ROOT / "docs/examples/verify.py", tmp_path, "none.npz", "none.npz"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
    assert done.returncode == 1 and f"differ in {name}" in done.stderr
    assert "deploy both files of one export" in done.stderr
