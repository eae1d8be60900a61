"""The metrics of the result tables: to add one, write a function of a `Roc` and a line here."""

from collections.abc import Callable
from dataclasses import dataclass

from numpy.typing import ArrayLike

from nessa.metrics.roc import Roc, act_dcf, cllr, min_cllr
from nessa.text import cost, percent


@dataclass(frozen=True)
class Metric:
    """A column of the tables, with its interval of the joint speaker bootstrap.

    Attributes:
        key: of the value in a record; `<key>_ci` is its interval.
        name: in tables.
        meaning: for the legend, a sentence without a period.
        of: the curve of all trials, or of a bootstrap draw of them -> the value, lower is better.
        rate: the value is an error rate, shown in percent, not a cost.
    """

    key: str
    name: str
    meaning: str
    of: Callable[[Roc], float]
    rate: bool = False

    @property
    def title(self) -> str:
        """The head of its column."""
        return f"{self.name} %" if self.rate else self.name

    def show(self, value: float) -> str:
        """The value as it stands in a table."""
        return percent(value) if self.rate else cost(value)

    def show_difference(self, value: float) -> str:
        """A difference of two values, with its sign; of rates in percentage points."""
        return f"{100 * value:+.2f}" if self.rate else f"{value:+.3f}"


EER = Metric("eer", "EER", "equal error rate, on the ROC convex hull", Roc.eer, rate=True)
METRICS: tuple[Metric, ...] = (
    EER,  # the recovered gain is a ratio of its differences
    Metric("min_dcf", "minDCF", "normalized detection cost at p_target = 0.01, costs 1",
           Roc.min_dcf),
)  # fmt: skip

# Of natural-log likelihood ratios (T,) and labels (T,); without an interval.
LLR_METRICS: dict[str, Callable[[ArrayLike, ArrayLike], float]] = {
    "act_dcf": act_dcf,
    "cllr": cllr,
    "min_cllr": min_cllr,
}


def legend() -> str:
    """What the metrics are, in sentences."""
    return " ".join(f"{metric.name}: {metric.meaning}." for metric in METRICS)
