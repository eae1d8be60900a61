"""Names of a package that are imported when they are asked for, so that nobody waits for torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package.

    Args:
        package: its `__name__`.
        modules: {public name: the module, in full, that has it}.
    """

    def get(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return imported(f"{modules[name]}.{name}")

    return get


def imported(place: str) -> Any:
    """What is at a dotted place, module and name.

    Raises:
        ImportError: of the module, or of one that it imports.
    """
    module, _, name = place.rpartition(".")
    return getattr(import_module(module), name)
