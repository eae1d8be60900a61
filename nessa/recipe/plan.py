"""The plan of a recipe for run.sh: what each stage works on."""

from collections.abc import Iterator
from pathlib import Path

from nessa.encoders.arks import GivenEmbeddings
from nessa.encoders.config import PretrainedConfig, files_in
from nessa.encoders.kinds import parse_settings
from nessa.encoders.settings import ArksConfig
from nessa.files import changes_of, digest
from nessa.kaldi.datadir import ENROLL_MAP, trial_lists
from nessa.recipe.config import Recipe
from nessa.recipe.stages import STAGES, stage_digest
from nessa.recipe.systems import (
    LDA_PLDA,
    NESSA,
    aligned_systems,
    fitted_systems,
    scored_systems,
    symmetric_systems,
)

# Tables of a corpus that stage prepare makes the sets of, beside trials and Lhotse's manifests.
TABLES = (
    "utt2spk", "spk2utt", "utt2session", "utt2domain", "spk2gender", "spk2set", "text", ENROLL_MAP,
)  # fmt: skip
AUDIO_TABLES = ("segments", "wav.scp", "feats.scp")  # which recipes of embeddings do not read
# Those of published corpora, by the program that reads them and the path that they are below.
VOX_LISTS = ("veri_test.txt", "veri_test2.txt", "list_test_*.txt")
VOX_GENDERS = tuple(f"{folder}vox?_meta.csv" for folder in ("", "meta/", "dev/", "../"))
VOX_FOLDERS = ("", "meta/", "lists/", "trials/")  # of lists, below VoxCeleb1
PUBLISHED_TABLES = {
    ("librispeech", "librispeech"): ("SPEAKERS.TXT",),
    ("voxceleb", "voxceleb1"): (*(f + n for f in VOX_FOLDERS for n in VOX_LISTS), *VOX_GENDERS),
    ("voxceleb", "voxceleb2"): VOX_GENDERS,
    ("voxceleb", "lists"): VOX_LISTS,
}


def extras(recipe: Recipe) -> list[str]:
    """The optional dependencies (extras of pyproject.toml) that a recipe needs."""
    return sorted({config.extra for _, config in _pretrained(recipe) if config.extra})


def plan(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Key and value of each line of the plan, lists separated by spaces."""
    aligned = aligned_systems(recipe)
    yield "name", recipe.name
    yield "extras", " ".join(extras(recipe))
    yield "corpus", recipe.corpus.program or ""
    yield "prepare", recipe.prepare.program
    yield "models", " ".join(recipe.encoders)
    yield "extract_sets", " ".join(recipe.extraction.sets)
    yield "shards", str(recipe.extraction.shards)
    symmetric = symmetric_systems(recipe)
    yield "backends", " ".join(s.enroll for s in symmetric if s.aligner == LDA_PLDA)
    yield "symmetric", " ".join(map(str, symmetric))
    yield "fitted", " ".join(map(str, fitted_systems(recipe)))
    yield "mapped", " ".join(map(str, aligned))
    yield "systems", " ".join(map(str, scored_systems(recipe)))
    exported = [system for system in aligned if system.aligner == NESSA]
    yield "exported", " ".join(str(s) for s in exported if s.enroll != s.runtime)
    yield from missing_files(recipe)
    # What changes under the same path, by the first stage that reads it.
    files = {"encoders": model_files(recipe), "extract": given_embeddings(recipe)}
    for stage in STAGES:
        key = stage_digest(recipe, stage)
        for first, found in files.items():
            if found and STAGES.index(stage) >= STAGES.index(first):
                key = digest([key, found])
        yield "digest", f"{stage} {key}"
    if tables := given_tables(recipe):  # apart: markers of earlier versions lack them
        newest = max(changed for _, changed in tables.values()) // 10**9
        yield "tables", f"{digest(tables)} {newest}"


def given_tables(recipe: Recipe) -> dict[str, tuple[int, int]]:
    """Tables and manifests in corpus.paths, see `changes_of`; neither audio nor features.

    Empty where a path is not there, as of a disk that is not mounted: nothing is known of changes.
    """
    paths = {name: Path(path) for name, path in recipe.corpus.paths.items()}
    if not all(path.exists() for path in paths.values()):
        return {}
    program = recipe.prepare.program
    names = TABLES if program == "arks" else (*TABLES, *AUDIO_TABLES)
    files: list[Path] = []
    for name, path in paths.items():
        files += [*(path / table for table in names), *trial_lists(path)]
        patterns = ("*.jsonl", "*.jsonl.gz", *PUBLISHED_TABLES.get((program, name), ()))
        files += [file for pattern in patterns for file in path.glob(pattern)]
    return changes_of(files)


def missing_files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """missing_<first stage that reads it> and a message, of corpora and models not there."""
    for name, place in recipe.corpus.paths.items():
        if not Path(place).exists():
            yield "missing_prepare", f"{place}: no such folder (corpus.paths.{name}); correct it"
    for name, config in _pretrained(recipe):
        if (path := config.missing()) is not None:
            stage = "extract" if isinstance(config, ArksConfig) else "encoders"
            yield f"missing_{stage}", f"encoders.{name}: no such file {str(path)!r}; correct it"


def model_files(recipe: Recipe) -> dict[str, dict[str, tuple[int, int]]]:
    """{model: its files, see `changes_of`} of the pretrained models that are files or folders."""
    found = {}
    for name, config in _pretrained(recipe):
        changes = changes_of(file for place in config.places() for file in files_in(place))
        if changes:  # none of a name on a model hub
            found[name] = changes
    return found


def given_embeddings(recipe: Recipe) -> dict[str, str]:
    """{model: fingerprint of its files} of the models of which only the embeddings are there."""
    return {
        name: GivenEmbeddings(name, config).fingerprint
        for name, config in _pretrained(recipe)
        if isinstance(config, ArksConfig)
    }


def _pretrained(recipe: Recipe) -> Iterator[tuple[str, PretrainedConfig]]:
    """The models that are not trained here, with their settings."""
    for name, settings in recipe.encoders.items():
        config = parse_settings(settings)
        if isinstance(config, PretrainedConfig):
            yield name, config
