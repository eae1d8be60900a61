"""Strict YAML sections: what is unknown or mistyped is refused with the nearest valid key."""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError

from nessa.errors import InputError
from nessa.files import atomic_open, read_lines

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
DEEPEST = 100  # brackets in each other
DEFAULT_KIND = "ours"  # of a value whose kind is not named; see `one_of`


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnySection = TypeVar("AnySection", bound=Section)


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
        raise InputError(f"{path}: " + "; ".join(explain(error, schema))) from None


def save_yaml(path: Path | str, section: Section) -> None:
    """Write a section (or the whole recipe) as YAML."""
    with atomic_open(path) as file:
        yaml.safe_dump(section.model_dump(mode="json"), file, sort_keys=False)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML mapping by the safe loader.

    Raises:
        InputError: unreadable, not YAML, or not a mapping.
    """
    text = "\n".join(line for _, line in read_lines(path))
    try:
        check_depth(text)
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


def check_depth(text: str) -> None:
    """Refuse what PyYAML would take a time for that grows with the square of its depth."""
    depth = 0
    for bracket in re.findall(r"[\[{}\]]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > DEEPEST:
            raise ValueError(f"brackets are nested more than {DEEPEST} deep")


def explain(error: ValidationError, schema: Any) -> Iterable[str]:
    """One message per problem of a section, with the nearest valid key for an unknown one."""
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        names, place = _walk(schema, location)
        name = ".".join(names)
        where = f"{name}: " if name else ""
        match problem["type"]:
            case "extra_forbidden":
                _, beside = _walk(schema, location[:-1])
                keys = list(getattr(_section_of(beside), "model_fields", {}))
                yield f"unknown key {name!r}{nearest(location[-1], keys)}"
            case "missing":
                yield f"key {name!r} is missing"
            case "union_tag_invalid":
                key, kind = problem["ctx"]["discriminator"].strip("()"), problem["ctx"]["tag"]
                kinds = [kind for kind in _kinds(place) if kind != DEFAULT_KIND]
                place_of_key = f"{name}.{key}" if name else key
                yield f"{place_of_key}: no kind of model {kind!r}{nearest(kind, kinds)}"
            case "value_error":  # of a section as a whole, which would be long
                yield f"{where}{problem['ctx']['error']}"
            case _:
                yield f"{where}{problem['msg']} (got {problem['input']!r})"


def one_of(key: str, kinds: Mapping[str, type[Section]]) -> Any:
    """The type of a value that is one of several sections, told apart by one of its keys.

    Args:
        key: its value names the kind.
        kinds: {name of the kind: its section}; `DEFAULT_KIND` is that of a value without the key.
    """

    def kind_of(value: Any) -> str:
        if isinstance(value, Mapping):
            return str(value.get(key, DEFAULT_KIND))
        return str(getattr(value, key, DEFAULT_KIND))

    kind_of.__name__ = key  # by which `explain` knows it
    tagged = tuple(Annotated[section, Tag(kind)] for kind, section in kinds.items())
    return Annotated[Union[tagged], Discriminator(kind_of)]  # noqa: UP007  made of a tuple


def _walk(schema: Any, location: list[str]) -> tuple[list[str], Any]:
    """The keys that lead to a place, and the annotation there.

    pydantic puts the kind of a value (see `one_of`) into its path, where no such key is.
    """
    names, here = [], schema
    for part in location:
        kinds = _kinds(here)
        if part in kinds:
            here = kinds[part]
            continue
        names.append(part)
        fields = {} if kinds else getattr(_section_of(here), "model_fields", {})
        if part in fields:
            here = fields[part].annotation
    return names, here


def _kinds(annotation: Any) -> dict[str, Any]:
    """{kind: its section}, of an annotation with a choice made by `one_of` in it."""
    found: dict[str, Any] = {}
    for argument in get_args(annotation):
        tags = [item.tag for item in getattr(argument, "__metadata__", ()) if isinstance(item, Tag)]
        if tags:
            found[tags[0]] = argument.__origin__
        else:
            found |= _kinds(argument)
    return found


def _section_of(annotation: Any) -> Any:
    """The section class inside an annotation such as dict[str, SetSize]."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        found = _section_of(argument)
        if found is not None:
            return found
    return None


def nearest(word: str, candidates: Iterable[str]) -> str:
    """ ", did you mean ...?" or the list of what there is."""
    candidates = list(candidates)
    close = difflib.get_close_matches(word, candidates, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid: {', '.join(candidates)}" if candidates else ""
