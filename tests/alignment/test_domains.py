"""Domains: each one's mean is moved to that of the align set."""

import copy
from pathlib import Path

import numpy as np
import pytest

from nessa.alignment import Aligner, AlignTable, DevSet, load
from nessa.alignment.domains import FEWEST, Domains, domain_shifts, shifted
from nessa.files import write_table
from nessa.kaldi.embeddings import Embeddings, profile_means
from nessa.metrics.roc import eer
from nessa.production.export_aligner import export_aligner
from nessa.production.mapping import map_sides
from nessa.production.stores import map_stores
from nessa.recipe.mapping import speaker_domains
from nessa.scoring.cosine import cosine_scores
from nessa.trials import Trials
from tests.aligners import small
from tests.conftest import Command
from tests.pairs import all_trials, two_views

Views = tuple[Embeddings, Embeddings, dict[str, str]]


def of_two_domains(speakers: int, first_speaker: int = 0) -> tuple[Views, dict[str, str]]:
    """Speakers of words, and speakers of sentences, who lie elsewhere in each of the models."""
    x, y, names = two_views(speakers, 4, first_speaker=first_speaker)
    order = sorted(set(names.values()))
    domains = {u: ("word", "sentence")[order.index(s) % 2] for u, s in names.items()}
    moved = []
    for view, seed in ((x, 1), (y, 2)):
        away = np.random.default_rng(seed).standard_normal(view.dim).astype(np.float32)
        length = np.linalg.norm(view.matrix, axis=1).mean()
        where = np.array([domains[key] == "sentence" for key in view.keys])[:, None]
        moved.append(Embeddings(view.keys, view.matrix + 1.0 * length * away * where))
    return (moved[0], moved[1], names), domains


def within(names: dict[str, str], domains: dict[str, str]) -> Trials:
    """All trials of one domain on both sides; across domains the domain would tell."""
    trials = all_trials(names)
    sides = zip(trials.enroll, trials.test, strict=True)
    return trials.select(np.array([domains[a] == domains[b] for a, b in sides]))


@pytest.fixture(scope="module")
def align() -> tuple[Views, dict[str, str]]:
    return of_two_domains(120)


def test_the_means_of_all_domains_fall_together(align) -> None:
    (x, _, _), domains = align
    own = [domains[key] for key in x.keys]
    shifts = domain_shifts(x.matrix, Domains.of(own))
    lengths = np.linalg.norm(x.matrix, axis=1, keepdims=True)
    moved = shifted(x.matrix, own, shifts) / lengths
    sentences = np.array(own) == "sentence"
    np.testing.assert_allclose(
        moved[sentences].mean(axis=0), moved[~sentences].mean(axis=0), atol=1e-5
    )
    raw = x.matrix / lengths
    assert np.abs(raw[sentences].mean(axis=0) - raw[~sentences].mean(axis=0)).max() > 0.05


def test_a_domain_of_few_and_rows_of_none_stay_as_they_are() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((3 * FEWEST, 5)).astype(np.float32)
    names = ["many"] * (2 * FEWEST) + ["few"] * (FEWEST - 1) + [""]
    shifts = domain_shifts(matrix, Domains.of(names))
    assert shifts.keys() == {"many"}
    found = shifted(matrix, [*names[:-1], None], shifts)
    np.testing.assert_array_equal(found[2 * FEWEST :], matrix[2 * FEWEST :])
    names = ["many"] * FEWEST + [""] * (2 * FEWEST)
    assert domain_shifts(matrix, Domains.of(names)).keys() == {"many"}, "however many have none"


def test_views_that_share_speakers_alone_have_the_domains_of_their_own_utterances() -> None:
    x, y, names = two_views(120, 4)
    numbers = {key: int(key.rpartition("-")[2]) for key in x.keys}
    x, y = (v.select([k for k in v.keys if numbers[k] % 2 == n]) for n, v in enumerate((x, y)))
    domains = {key: "sentence" if number == 3 else "word" for key, number in numbers.items()}
    table = AlignTable.by_speaker(x, y, names).with_domains(domains)
    aligner = small("procrustes").fit_table(table)
    expected = domain_shifts(y.matrix, Domains.of([domains[key] for key in y.keys]))
    assert aligner.shifts["runtime"].keys() == expected.keys() == {"sentence", "word"}
    for name, shift in expected.items():
        np.testing.assert_allclose(aligner.shifts["runtime"][name], shift, atol=1e-6)
    assert aligner.shifts["enroll"].keys() == {"word"}
    # The maps are fitted to views that are moved alike.
    moved = aligner.center_domains(y, "runtime", domains)
    again = small("procrustes").fit_table(AlignTable.by_speaker(x, moved, names))
    one, other = (own.map_runtime(moved.matrix) for own in (aligner, again))
    np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["neural", "cca", "plda", "ridge"])
def test_domains_that_lie_apart_are_told_apart_no_more(align, kind: str, tmp_path: Path) -> None:
    """With domains fewer errors than without; the same after loading, and for the mirror."""
    views, domains = align
    (dx, dy, names), dev_domains = of_two_domains(30, first_speaker=5000)
    trials = within(names, dev_domains)
    plain = small(kind).fit(*views, DevSet(dx, dy, trials))
    table = AlignTable.of(*views).with_domains(domains)
    centered = small(kind).fit_table(table, DevSet(dx, dy, trials, domains=dev_domains))
    (x, y, names), own = of_two_domains(40, first_speaker=9000)
    trials = within(names, own)
    assert trials.labels is not None

    def error(aligner, known) -> float:
        return eer(cosine_scores(*aligner.map_views(x, y, known), trials), trials.labels)

    assert error(centered, own) < error(plain, {})
    centered.save(tmp_path)
    again = load(tmp_path)
    assert error(again, own) == error(centered, own)
    other = again.mirrored().center_domains(x, "runtime", own)
    np.testing.assert_array_equal(other.matrix, centered.center_domains(x, "enroll", own).matrix)


def test_arks_are_centered_and_profiles_with_their_utterances(align, tmp_path: Path) -> None:
    views, domains = align
    aligner = small("cca").fit_table(AlignTable.of(*views).with_domains(domains))
    (x, y, _), own = of_two_domains(4, first_speaker=9000)
    x.write(tmp_path / "x")
    y.write(tmp_path / "y")
    profile = {"p": x.keys[:3]}
    (tmp_path / "map").write_text("p " + " ".join(profile["p"]) + "\n")
    for known in (own, {}):
        map_sides(
            aligner,
            tmp_path / "x",
            tmp_path / "y",
            tmp_path / "map",
            tmp_path / "to",
            domains=known,
        )
        mapped = Embeddings.read(tmp_path / "to/enroll")
        mean = Embeddings(["p"], x.select(x.keys[:3]).matrix.mean(axis=0, keepdims=True))
        moved = aligner.center_domains(mean, "enroll", {"p": own[x.keys[0]]} if known else {})
        np.testing.assert_allclose(
            mapped.select(["p"]).matrix, aligner.map_enroll(moved.matrix), atol=1e-6
        )
        several = aligner.center_domains(x, "enroll", known)
        np.testing.assert_allclose(
            mapped.select(x.keys).matrix, aligner.map_enroll(several.matrix), atol=1e-6
        )


def test_means_of_several_domains_are_moved_by_the_mean_of_their_shifts(
    align, tmp_path: Path
) -> None:
    views, domains = align
    aligner = small("cca").fit_table(AlignTable.of(*views).with_domains(domains))
    (x, _, _), _ = of_two_domains(2, first_speaker=9000)
    own = dict(zip(x.keys[:3], ("word", "sentence", "sentence"), strict=True))
    write_table(tmp_path / "utt2domain", own)
    write_table(tmp_path / "utt2spk", dict.fromkeys(own, "p"))
    x.write(tmp_path / "x")
    mean = x.select(x.keys[:3]).matrix.mean(axis=0, keepdims=True)
    shifts = aligner.shifts["enroll"]
    length = np.linalg.norm(mean)
    moved = mean + length * (shifts["word"] + 2 * shifts["sentence"]) / 3
    expected = aligner.map_enroll(moved.astype(np.float32))
    of_speaker = aligner.center_domains(
        Embeddings(["p"], mean), "enroll", speaker_domains(tmp_path)
    )
    np.testing.assert_allclose(aligner.map_enroll(of_speaker.matrix), expected, atol=1e-5)
    for names in (x.keys[:3], x.keys[2::-1]):
        (tmp_path / "map").write_text("p " + " ".join(names) + "\n")
        sides = tmp_path / "x", None, tmp_path / "map", tmp_path / "to"
        map_sides(aligner, *sides, domains=own)
        found = Embeddings.read(tmp_path / "to/enroll").select(["p"]).matrix
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_mean_of_several_domains_is_moved_by_its_length() -> None:
    row, shifts = np.full((1, 4), 5, np.float32), {"a": np.full(4, 0.1, np.float32)}
    several, one = (shifted(row, [domain], shifts) for domain in (("a", "a"), "a"))
    np.testing.assert_allclose(several, one, rtol=1e-6)


def test_a_side_that_joins_domains_without_its_own_says_what_it_suits(
    align, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside mapped profiles its EER rose from 2.6 to 20 %; the verdict said that it helps."""
    views, domains = align
    sentences = {key: name for key, name in domains.items() if name == "sentence"}
    table = AlignTable.of(*views)
    fitted = small("neural").fit_table(table.with_domains(domains))
    text = "the enroll side, which stays as it is, centers domains"
    said = {}
    for number, given in enumerate((domains, sentences, {})):
        caplog.clear()
        copy.deepcopy(fitted).fit_table(table.with_domains(given), freeze="enroll")
        said[number] = [line for line in caplog.messages if text in line]
    assert said[0] == []
    assert [line.startswith(f"{text} 'word', of which") for line in said[1]] == [True]
    assert [line.startswith(f"{text} 'sentence', 'word', of which") for line in said[2]] == [True]
    assert all("the runtime side suits" in line for line in said[1] + said[2])


def centered_or_not(align) -> list[Aligner]:
    """An aligner with means of domains, and one without."""
    views, domains = align
    table = AlignTable.of(*views)
    return [small("procrustes").fit_table(own) for own in (table.with_domains(domains), table)]


TOLD = "domains are not centered here: calibration and threshold must be of embeddings that were"


def test_a_store_says_whose_calibration_and_threshold_it_needs_where_others_are_centered(
    align, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else those of centered embeddings pass, with false accepts that nobody asked for."""
    np.savez(tmp_path / "store.npz", ids=align[0][0].keys, embeddings=align[0][0].matrix)
    for name, aligner in zip("ab", centered_or_not(align), strict=True):
        list(map_stores(aligner, {"enroll": tmp_path / "store.npz"}, tmp_path / name, False))
        assert caplog.text.count(f"{tmp_path}/a: {TOLD}") == 1
        assert caplog.text.count(TOLD) == 1


@pytest.mark.slow
def test_networks_say_so_too(align, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, aligner in zip("ab", centered_or_not(align), strict=True):
        export_aligner(aligner, tmp_path / name)
        card = (tmp_path / name / "README.md").read_text()
        assert (f"- {TOLD.capitalize()}" in card) == (name == "a")
        assert caplog.text.count(TOLD) == caplog.text.count(f"{tmp_path}/a: {TOLD}") == 1


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_domains_that_the_aligner_does_not_know_are_named(
    align, nessa: Command, tmp_path: Path, more: tuple[str, ...]
) -> None:
    views, domains = align
    table = AlignTable.of(*views)
    small("cca").fit_table(table.with_domains(domains)).save(tmp_path / "aligner")
    small("cca").fit_table(table).save(tmp_path / "without")
    (x, _, _), own = of_two_domains(4, first_speaker=9000)
    x.write(tmp_path / "x")
    words = "--enroll", tmp_path / "x", "--utt2domain", tmp_path / "utt2domain", *more
    output = "--output", tmp_path / "to"

    def said(aligner: str, given: dict[str, str]) -> str:
        write_table(tmp_path / "utt2domain", given | {"not-mapped": "song"})
        done = nessa("map", "--aligner", tmp_path / aligner, *words, *output)
        assert done.status == 0, done
        return done.err

    mistyped = {key: "wrod" if name == "word" else name for key, name in own.items()}
    text, rest = "/x: the aligner has no means of domains", "which are not centered"
    assert f"{text} 'wrod', {rest} (it has: 'sentence', 'word')" in said("aligner", mistyped)
    assert f"{text} 'sentence', 'word', {rest} (it has: none)" in said("without", own)
    text = said("aligner", own)
    assert "means of domains" not in text
    assert TOLD not in text


def test_domains_of_other_ids_are_refused(align, nessa: Command, tmp_path: Path) -> None:
    """As of the utterances, where means of speakers are mapped: they moved nothing."""
    views, domains = align
    table = AlignTable.of(*views).with_domains(domains)
    small("cca").fit_table(table).save(tmp_path / "aligner")
    (x, y, names), own = of_two_domains(4, first_speaker=9000)
    speakers = sorted(set(names.values()))
    profiles = {speaker: [key for key in x.keys if names[key] == speaker] for speaker in speakers}
    profile_means(x, profiles).write(tmp_path / "means")
    y.write(tmp_path / "y")
    words = "map", "--aligner", tmp_path / "aligner", "--utt2domain", tmp_path / "utt2domain"
    sides = "--enroll", tmp_path / "means", "--runtime", tmp_path / "y"
    write_table(tmp_path / "utt2domain", own)
    nessa(*words, *sides, "--output", tmp_path / "to").refused(
        f"{tmp_path}/means: the table of domains names none of its ids, as '{speakers[0]}'",
        "--utt2domain",
    )
    assert not (tmp_path / "to").exists()
    write_table(tmp_path / "utt2domain", own | {speakers[0]: "word"})  # others have none
    assert nessa(*words, *sides, "--output", tmp_path / "to").status == 0
