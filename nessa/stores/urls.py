"""The databases that a URL can name: to add one, write a `Database` and a line."""

from nessa.errors import InputError
from nessa.lazy import imported
from nessa.stores.base import Database

# Scheme of the URL: class, extra of pyproject.toml.
DATABASES = {
    "postgresql": ("nessa.stores.postgres.Postgres", "postgres"),
    "milvus": ("nessa.stores.milvus.Milvus", "milvus"),
}


def open_database(url: str, to: str) -> Database:
    """The database of a URL: its raw profiles, and the table that receives the mapped ones.

    Args:
        url: SCHEME:..., see the modules of `DATABASES`.
        to: name of the table.

    Raises:
        InputError: unknown, without its packages, or it cannot be opened.
    """
    scheme = url.partition(":")[0]
    if scheme not in DATABASES:
        known = " or ".join(f"{name}:" for name in DATABASES)
        raise InputError(f"{scheme!r} is no database that nessa knows; begin the URL with {known}")
    place, extra = DATABASES[scheme]
    try:
        kind = imported(place)
    except ImportError as error:
        raise InputError(
            f"{scheme}: needs {error.name}: run `pip install 'nessa[{extra}]'` first"
        ) from None
    return kind(url, to)
