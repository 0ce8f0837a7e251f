"""The statistics of `auditing.statistics`, by the name that they had before audits took them too."""

from __future__ import annotations

from onnxviz.auditing.statistics import Calibration, Likeness, Share, mcnemar, overlap, spearman

__all__ = ["Calibration", "Likeness", "Share", "mcnemar", "overlap", "spearman"]
