"""Recipe files -> checked recipes.

A recipe file is YAML. `resolve` merges it with a named size and with `--set key=value` overrides,
checks every key and value, fills in what models leave to their defaults, and returns a frozen
`Recipe`. Anything unknown is an error that names the key, the file and the nearest valid key.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from nessa.encoders.config import (
    OF_COMPUTED,
    EncoderConfig,
    FeatureConfig,
    LossConfig,
    PretrainedConfig,
)
from nessa.encoders.kinds import given_dimensions, given_shifts, parse_settings, sampling_rates
from nessa.encoders.settings import with_texts
from nessa.errors import InputError, about
from nessa.files import STARTED_IN, find_given
from nessa.recipe.config import Recipe
from nessa.schema import StrictLoader, check_depth, explain, nearest, read_yaml

log = logging.getLogger(__name__)
LOCAL = Path(__file__).parents[2] / "local"  # programs of corpora


def load_recipe(path: Path | str) -> Recipe:
    """Read a resolved recipe (or one that needs no size), without a look at models' settings."""
    settings, _ = _read(path)
    with about(path):
        return _parse(settings)


def resolve(path: Path | str, size: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Merge a recipe file, a size and overrides into a checked recipe.

    Args:
        path: recipe.yaml; its optional key `sizes` maps a size to the values that it changes.
        size: a key of `sizes`, "default" or None.
        overrides: "section.key=value" strings; the value is read as YAML.

    Raises:
        InputError: not YAML, unknown size or key (the nearest is named), or a wrong value.
    """
    settings, sizes = _read(path)
    if size not in (None, "default"):
        if size not in sizes:
            raise InputError(f"{path}: no size {size!r}{nearest(size, ['default', *sizes])}")
        settings = _merge(settings, sizes[size])
    where = str(path)
    overrides = list(overrides)
    changes = list(map(_parse_override, overrides))
    for change in (*changes, *changes):  # a model's settings may come before the kind they are of
        settings = _merge(settings, change, kind_alone=True)
    where += "".join(f" with --set {override}" for override in overrides)
    try:
        recipe = _parse(settings)
        _check_programs(recipe)
        encoders = {name: _encoder_settings(model, name) for name, model in recipe.encoders.items()}
        _check_dimensions(recipe, encoders)
        _check_corpus_fits(encoders)
        _check_copies(recipe, encoders)
        paths = {name: find_given(path) for name, path in recipe.corpus.paths.items()}
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    corpus = recipe.corpus.model_copy(update={"paths": paths})
    return recipe.model_copy(update={"encoders": encoders, "corpus": corpus})


def _encoder_settings(model: dict[str, Any], name: str) -> dict[str, Any]:
    """All settings of a model, with its defaults."""
    settings = parse_settings(model, f"encoders.{name}")
    _warn_of_unread(settings, f"encoders.{name}")
    found = settings.model_dump(mode="json")
    paths = ("path", *getattr(settings, "paths", ()))  # of arks, and of exported networks
    found |= {key: find_given(found[key]) for key in paths if found.get(key)}
    if "arguments" in found:  # of a function of the user's
        found["arguments"] = with_texts(found["arguments"], _found_file)
    return found


def _found_file(text: str) -> str:
    """A text that is found as paths are, if it names a file; others may be any words."""
    there = os.path.join(os.environ.get(STARTED_IN, ""), text)
    named = os.path.isfile(there) and not (os.path.exists(text) and os.path.samefile(text, there))
    return find_given(text) if named else text  # what is named already stays, for the digests


def _read(path: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a recipe file, and its sizes."""
    settings = read_yaml(path)
    sizes = settings.pop("sizes", None) or {}
    if not isinstance(sizes, dict):
        raise InputError(f"{path}: sizes: expected `size: changes` lines, got {sizes!r}")
    if "default" in sizes:
        raise InputError(f"{path}: sizes.default: that is the recipe without a size; rename it")
    for name, changes in sizes.items():
        if not isinstance(changes, dict):
            raise InputError(f"{path}: sizes.{name}: expected `key: value` lines, got {changes!r}")
    return settings, {str(name): changes for name, changes in sizes.items()}


def _parse(settings: dict[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise InputError("; ".join(explain(error, Recipe))) from None


def _check_programs(recipe: Recipe) -> None:
    """Refuse a corpus or prepare program that is not there."""
    for section, program in (
        ("corpus", recipe.corpus.program),
        ("prepare", recipe.prepare.program),
    ):
        if program and not (LOCAL / f"{program}.py").is_file():
            programs = sorted(path.stem for path in LOCAL.glob("*.py"))
            raise InputError(
                f"{section}.program: no program local/{program}.py{nearest(program, programs)}"
            )


def _check_dimensions(recipe: Recipe, encoders: Mapping[str, dict[str, Any]]) -> None:
    """Refuse the cosine of raw vectors of two lengths; those of pretrained models are not known."""
    trained = {name: encoders[name] for name in recipe.update if "architecture" in encoders[name]}
    dims = {name: model["dim"] for name, model in trained.items()}
    if "raw" in recipe.baselines and len(set(dims.values())) > 1:
        given = " and ".join(f"encoders.{name} has dim {dim}" for name, dim in dims.items())
        raise InputError(
            f"baselines: raw compares the models' own vectors, but {given}; leave out raw, or give "
            "both one dim"
        )


def _check_corpus_fits(encoders: Mapping[str, dict[str, Any]]) -> None:
    """Refuse models that no corpus fits: its audio has one rate, its features are of one kind."""
    for find, what in (
        (sampling_rates, "audio at {} Hz"),
        (given_dimensions, "given features of num_filters {}"),
        (given_shifts, "given features of frame_shift {}"),
    ):
        taken = {
            name: what.format(*each) for name in encoders if (each := find({name: encoders[name]}))
        }
        if len(set(taken.values())) > 1:
            said = " and ".join(f"encoders.{name} takes {each}" for name, each in taken.items())
            raise InputError(
                f"{said}, but a corpus is prepared for one; choose models that take the same, or "
                "give the embeddings of one (pretrained: arks)"
            )


def _check_copies(recipe: Recipe, encoders: Mapping[str, dict[str, Any]]) -> None:
    """Refuse copies of a corpus of features, before all of it is read."""
    given = [name for name, settings in encoders.items() if given_shifts({name: settings})]
    if recipe.prepare.align_copies and given:
        raise InputError(
            f"prepare.align_copies: encoders.{given[0]} takes given features, of which no copies "
            "can be made; remove prepare.align_copies"
        )


def _warn_of_unread(model: EncoderConfig | PretrainedConfig, place: str) -> None:
    """Warn of what the loss or given features of a model do not read, unless default.

    Models that were trained with such settings are as good as others, and stay what they are.
    """
    unread: list[tuple[str, LossConfig | FeatureConfig, set[str]]] = []
    if isinstance(model, EncoderConfig) and model.loss.type != "aam":
        unread.append(("loss", model.loss, {*LossConfig.model_fields} - {"type"}))
    features = getattr(model, "features", None)
    if isinstance(features, FeatureConfig) and features.type == "given":
        unread.append(("features", features, OF_COMPUTED))
    for name, section, keys in unread:
        plain = section.model_validate({"type": section.type}).model_dump(mode="json")
        for key, value in section.model_dump(mode="json", include=keys).items():
            if value != plain[key]:
                log.warning(
                    "%s.%s.%s: %s does nothing with type %s; remove it before the first run "
                    "(later, the model would count as another one)",
                    place, name, key, value, section.type,
                )  # fmt: skip


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: expected key=value, for instance aligner.dim=128")
    try:
        check_depth(text)
        value = yaml.load(text, StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"--set {override}: the value is not plain YAML: {what}") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _merge(
    base: Mapping[str, Any], change: Mapping[str, Any], kind_alone: bool = False
) -> dict[str, Any]:
    """`base` with the values of `change`, mappings merged key by key.

    An empty mapping takes the place of the old one. So does a mapping that says `pretrained`, or
    `architecture` where the old one says `pretrained`, for it is another model.

    Args:
        base: settings.
        change: what they become.
        kind_alone: a mapping of `pretrained` alone names no other model where the old one is of
            that kind, and is merged.
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if not isinstance(value, Mapping) or not isinstance(old, Mapping):
            merged[key] = value
        elif kind_alone and list(value) == ["pretrained"] and value.items() <= old.items():
            continue
        elif _replaces(value, old):
            merged[key] = value
        else:
            merged[key] = _merge(old, value, kind_alone)
    return merged


def _replaces(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    return not new or "pretrained" in new or ("architecture" in new and "pretrained" in old)
