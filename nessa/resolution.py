"""Recipe files -> checked recipes.

A recipe file is YAML. `resolve` merges it with a named size and with `--set key=value` overrides,
checks every key and type, and returns a frozen `Recipe`. Anything unknown is an error that names
the key, the file and the nearest valid key.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from nessa.config import (
    MODEL_KINDS,
    OURS,
    EncoderConfig,
    ModelConfig,
    PretrainedConfig,
    Recipe,
    Section,
)
from nessa.errors import InputError
from nessa.files import atomic_open, read_lines

AnySection = TypeVar("AnySection", bound=Section)

DEEPEST = 100  # brackets in each other


def load_recipe(path: Path | str) -> Recipe:
    """Read a resolved recipe (or one that needs no size)."""
    return resolve(path)


def resolve(path: Path | str, size: str | None = None, overrides: Iterable[str] = ()) -> Recipe:
    """Merge a recipe file, a size and overrides into a checked recipe.

    Args:
        path: recipe.yaml; its optional key `sizes` maps a size to the values that it changes.
        size: a key of `sizes`, "default" or None.
        overrides: "section.key=value" strings; the value is read as YAML.

    Raises:
        InputError: not YAML, unknown size or key (the nearest is named), or a wrong value.
    """
    settings = read_yaml(path)
    sizes = settings.pop("sizes", None) or {}
    if size not in (None, "default"):
        if size not in sizes:
            raise InputError(f"{path}: no size {size!r}{_nearest(str(size), ['default', *sizes])}")
        settings = _merge(settings, sizes[size])
    where = str(path)
    for override in overrides:
        settings = _merge(settings, _parse_override(override))
        where += f" with --set {override}"
    try:
        return Recipe.model_validate(settings)
    except ValidationError as error:
        raise InputError(f"{where}: " + "; ".join(_explain(error))) from None


def read_section(path: Path | str, schema: type[AnySection]) -> AnySection:
    """Read a YAML file that holds one section.

    Args:
        path: of the file.
        schema: the section's class.

    Raises:
        InputError: not YAML, or a key (the nearest is named) or a value that it cannot have.
    """
    try:
        return schema.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_explain(error, schema))) from None


def save_yaml(path: Path | str, section: Section) -> None:
    """Write a section (or the whole recipe) as YAML."""
    with atomic_open(path) as file:
        yaml.safe_dump(section.model_dump(mode="json"), file, sort_keys=False)


def load_model_config(path: Path | str) -> EncoderConfig | PretrainedConfig:
    """Read the configuration of one model, as a recipe's `encoders` holds it under a name.

    Raises:
        InputError: unreadable, or a key or a value that no kind of model has.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(ModelConfig)
    try:
        return adapter.validate_python(read_yaml(path))
    except ValidationError as error:
        raise InputError(f"{path}: " + "; ".join(_explain(error, ModelConfig))) from None


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping by the safe loader.

    Raises:
        InputError: unreadable, not YAML, or not a mapping.
    """
    text = "\n".join(line for _, line in read_lines(path))
    try:
        _check_depth(text)
        settings = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f"line {where.line + 1}: " if where else ""
        what = getattr(error, "problem", None) or "cannot be parsed"
        raise InputError(f"{path}: {line}not plain YAML: {what}") from None
    except (ValueError, RecursionError) as error:  # a date that is none, or deep nesting
        raise InputError(f"{path}: not plain YAML that can be read ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: expected `key: value` lines at the top level")
    return settings


def _check_depth(text: str) -> None:
    """Refuse what PyYAML would take a time for that grows with the square of its depth."""
    depth = 0
    for bracket in re.findall(r"[\[{}\]]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > DEEPEST:
            raise ValueError(f"brackets are nested more than {DEEPEST} deep")


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise InputError(f"--set {override}: expected key=value, for instance aligner.dim=128")
    try:
        _check_depth(text)
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise InputError(f"--set {override}: the value is not plain YAML") from None
    for part in reversed(key.strip().split(".")):
        value = {part: value}
    return value


def _merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `change`, mappings merged key by key.

    A mapping that says `pretrained` is another kind of model, and takes the place of the old one.
    """
    merged = dict(base)
    for key, value in change.items():
        old = merged.get(key)
        if isinstance(value, Mapping) and isinstance(old, Mapping) and "pretrained" not in value:
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged


def _explain(error: ValidationError, schema: Any = None) -> Iterable[str]:
    """One message per problem, with the nearest valid key for an unknown one."""
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        # pydantic puts the kind of a model into the path, where no such key is.
        name = ".".join(part for part in location if part not in MODEL_KINDS)
        if problem["type"] == "extra_forbidden":
            keys = _keys_at(location, schema or Recipe)
            yield f"unknown key {name!r}{_nearest(location[-1], keys)}"
        elif problem["type"] == "missing":
            yield f"key {name!r} is missing"
        elif problem["type"] == "union_tag_invalid":
            kind = problem["ctx"]["tag"]
            kinds = [kind for kind in MODEL_KINDS if kind != OURS]
            where = f"{name}.pretrained" if name else "pretrained"
            yield f"{where}: no kind of model {kind!r}{_nearest(kind, kinds)}"
        elif problem["type"] == "value_error":  # of a section as a whole, which would be long
            where = f"{name}: " if name else ""
            yield f"{where}{problem['ctx']['error']}"
        else:
            where = f"{name}: " if name else ""
            yield f"{where}{problem['msg']} (got {problem['input']!r})"


def _keys_at(location: list[str], schema: Any) -> list[str]:
    """The valid keys beside an unknown one: walk the schema along its path."""
    section = schema
    for part in location[:-1]:
        fields = getattr(section, "model_fields", None)
        if fields and part in fields:
            section = _section_of(fields[part].annotation)
        elif part in MODEL_KINDS:
            section = MODEL_KINDS[part]
    return list(getattr(section, "model_fields", {}))


def _section_of(annotation: Any) -> Any:
    """The section class inside an annotation such as dict[str, EncoderConfig]."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_of(argument)
        if found is not None:
            return found
    return None


def _nearest(word: str, candidates: Iterable[str]) -> str:
    """ ", did you mean ...?" or the list of what there is."""
    candidates = list(candidates)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(candidates)}" if candidates else ""
