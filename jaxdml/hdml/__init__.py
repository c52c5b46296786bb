"""Hardness-aware deep metric learning (arXiv 1903.05503) around any tuple loss and miner."""

from jaxdml.hdml._synthesis import DETACH, MEMBERS, Networks, Synthetics, synthesize
from jaxdml.hdml.objective import HdmlConfig, objective
from jaxdml.hdml.pull import pull_negatives
from jaxdml.hdml.schedule import (
  HdmlState,
  Window,
  distrust,
  hardness,
  init_state,
  init_window,
  trust,
  update_state,
  update_window,
)
from jaxdml.hdml.tuples import Tuples, private_tuples
from jaxdml.losses.reducers import local_share

__all__ = [
  "DETACH", "MEMBERS", "HdmlConfig", "HdmlState", "Networks", "Synthetics", "Tuples", "Window",
  "distrust", "hardness", "init_state", "init_window", "local_share", "objective",
  "private_tuples", "pull_negatives", "synthesize", "trust", "update_state", "update_window",
]  # fmt: skip


def __dir__() -> list[str]:
  return __all__
