"""Error rates of verification scores, and their intervals."""

from nessa.metrics.bootstrap import Estimate, bootstrap, difference, mean_estimate, recovered_gain
from nessa.metrics.roc import Roc, act_dcf, cllr, eer, min_cllr, min_dcf
from nessa.metrics.table import Metric

__all__ = [
    "Estimate", "Metric", "Roc", "act_dcf", "bootstrap", "cllr", "difference", "eer",
    "mean_estimate", "min_cllr", "min_dcf", "recovered_gain",
]  # fmt: skip
