"""The suites: which losses with which methods on which task, and what is tuned for each arm."""

from __future__ import annotations

from studies.suites import eps, finetune, hdml
from studies.suites.arms import Arm, Suite

__all__ = ["SUITES", "Arm", "Suite"]

SUITES: dict[str, Suite] = {
  suite.name: suite for suite in [*hdml.suites(), *finetune.suites(), *eps.suites()]
}
"""By name."""
