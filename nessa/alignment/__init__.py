"""NESSA and every baseline behind one interface: fit, map both sides, save, load.

A new aligner is a subclass of `Aligner` in a file of its own, and a line in `ALIGNERS`.
"""

from nessa.lazy import lazy_names

# The aligners by their kind, which is a baseline's name in a recipe.
ALIGNERS = {
    "raw": "nessa.alignment.linear.RawAligner",
    "logit": "nessa.alignment.logit.LogitAligner",
    "logit_uncentered": "nessa.alignment.logit.UncenteredLogitAligner",
    "procrustes": "nessa.alignment.linear.ProcrustesAligner",
    "ridge": "nessa.alignment.linear.RidgeAligner",
    "cca": "nessa.alignment.linear.CCAAligner",
    "plda": "nessa.alignment.plda.PLDAAligner",
    "low_rank": "nessa.alignment.adapters.LowRankAligner",
    "diagonal": "nessa.alignment.adapters.DiagonalAligner",
    "lambda_orthogonal": "nessa.alignment.adapters.LambdaOrthogonalAligner",
    "regression": "nessa.alignment.regression.RegressionAligner",
    "classifier": "nessa.alignment.classifier.ClassifierAligner",
    "neural": "nessa.alignment.neural.NeuralAligner",
}
_MODULES = {place.rpartition(".")[2]: place.rpartition(".")[0] for place in ALIGNERS.values()}
_MODULES |= {
    "Aligner": "nessa.alignment.base",
    "AlignTable": "nessa.alignment.table",
    "DevSet": "nessa.alignment.dev",
    "aligner_class": "nessa.alignment.store",
    "load": "nessa.alignment.store",
    "load_to_update": "nessa.alignment.store",
}

__all__ = ["ALIGNERS", *_MODULES]
__getattr__ = lazy_names(__name__, _MODULES)
