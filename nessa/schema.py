"""Strict YAML sections: what is unknown or mistyped is refused with the nearest valid key."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from nessa.errors import InputError
from nessa.files import atomic_open, read_lines


def _distinct(values: Sequence[Any]) -> Sequence[Any]:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ValueError(f"{value!r} is there twice; remove one")
    return values


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"{pair} ends before it begins; swap the two")
    return pair


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")]
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]  # of a random generator
Fraction = Annotated[float, Field(ge=0, le=1)]
Distinct = AfterValidator(_distinct)  # of a tuple
Rising = AfterValidator(_rising)  # of a pair
DEEPEST = 100  # brackets in each other


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, values do not change.

    What a validator of the whole section says begins with the key, as in "low_freq: too high".
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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
        InputError: unreadable, not YAML, not a mapping, or a key twice in one.
    """
    text = "\n".join(line for _, line in read_lines(path))
    try:
        check_depth(text)
        settings = yaml.load(text, StrictLoader)
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


class StrictLoader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which PyYAML would keep the last alone."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # without what merge keys (<<) will add
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # refused later: no key of a mapping
                continue
            if (key.tag, key.value) in seen:
                problem = f"key {key.value!r} is there twice; remove one"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add((key.tag, key.value))
        return node


def check_depth(text: str) -> None:
    """Refuse what PyYAML would take a time for that grows with the square of its depth."""
    depth = 0
    for bracket in re.findall(r"[\[{}\]]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        if depth > DEEPEST:
            raise ValueError(f"brackets are nested more than {DEEPEST} deep")


def explain(error: ValidationError, schema: type[Section], place: str = "") -> Iterable[str]:
    """One message per key of a section, with the nearest valid key for an unknown one.

    Args:
        error: what pydantic found.
        schema: the section's class.
        place: where the section is, such as "encoders.old"; "" at the top.
    """
    problems: dict[tuple[int | str, ...], Any] = {}
    for found in error.errors():  # of a value that may be of several kinds there is one for each
        key = _key_of(schema, found["loc"])
        problems[key] = max(problems.get(key, found), found, key=_closeness)
    for key, problem in problems.items():
        location = [str(part) for part in key]
        name = ".".join([place] * bool(place) + location)
        match problem["type"]:
            case "extra_forbidden":
                keys = list(getattr(_section_at(schema, location[:-1]), "model_fields", {}))
                yield f"unknown key {name!r}{nearest(location[-1], keys)}"
            case "missing" if key == problem["loc"]:  # else of a pair that has one end
                yield f"key {name!r} is missing"
            case "value_error":
                # Of a section as a whole, whose message begins with the key, or of one value.
                mark = "." if isinstance(problem["input"], dict) else ": "
                yield f"{name}{mark if name else ''}{problem['ctx']['error']}"
            case _:
                yield f"{name}: {problem['msg']} (got {problem['input']!r})"


def _key_of(schema: type[Section], location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """`location` without the names that pydantic has for the kinds of a value, and what follows."""
    here: Any = schema
    for number, part in enumerate(location):
        if part == "[key]":  # of a mapping
            return location[:number]
        field = getattr(_section_of(here), "model_fields", {}).get(part)
        here = field.annotation if field else here
        if field and len(_kinds_of(here)) > 1:
            return location[: number + 1]
    return location


def _kinds_of(annotation: Any) -> list[Any]:
    """The types of a union such as `int | str | None`, without None."""
    is_union = get_origin(annotation) in (Union, UnionType)
    return [kind for kind in get_args(annotation) if kind is not NoneType] if is_union else []


def _closeness(problem: Any) -> tuple[bool, int]:
    """How close a value is to the kind that this problem is of: it is of the type, or parts are."""
    return not problem["type"].endswith("_type"), len(problem["loc"])


def _section_at(schema: type[Section], location: list[str]) -> type[Section] | None:
    """The section that the keys of `location` lead to."""
    here: Any = schema
    for part in location:
        fields = getattr(_section_of(here), "model_fields", {})
        here = fields[part].annotation if part in fields else here
    return _section_of(here)


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
