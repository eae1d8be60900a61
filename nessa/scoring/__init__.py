"""Scores of trials: cosine, AS-norm with a cohort per side, and calibration."""

from nessa.scoring.calibration import Calibration
from nessa.scoring.cosine import cosine_scores
from nessa.scoring.normalization import AsNorm, as_norm

__all__ = ["AsNorm", "Calibration", "as_norm", "cosine_scores"]
