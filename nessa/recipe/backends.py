"""Fitting the back-ends by which a recipe's models are scored with themselves."""

from pathlib import Path

from nessa.alignment.lda_plda import LDAPLDA
from nessa.alignment.table import AlignTable
from nessa.errors import about
from nessa.recipe.fitting import read_dev
from nessa.recipe.layout import DEV, backend_file, embeddings_dir


def fit_backend(data: Path, exp: Path, model: str) -> str:
    """Fit LDA and PLDA of a model to its align set, with the dimension of the lowest dev EER.

    Args:
        data: holds the align and dev sets.
        exp: holds embeddings/; receives backends/.
        model: its name.

    Returns:
        A line that names the file and the dimension.

    Raises:
        InputError: embeddings or trials are missing or do not fit, or no align speaker has two
            utterances.
    """
    held_out = embeddings_dir(exp, model, DEV)
    dev = read_dev(data / DEV, held_out, held_out)
    places = embeddings_dir(exp, model, "align"), data / "align"
    table = AlignTable.open(places[0], *places)
    with about(*places):
        backend = LDAPLDA.fit(table, dev)
    path = backend_file(exp, model)
    backend.save(path)
    before, after = backend.lda.shape
    return (
        f"{path}: LDA from {before} to {after} dimensions and PLDA, {len(table.labels)} utterances"
    )
