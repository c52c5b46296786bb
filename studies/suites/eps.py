"""Suites of easy positives: coarse labels, how coarse, and when they help."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from studies import tasks
from studies.suites.arms import LOSSES, RATES, Arm, Suite, with_recipes

__all__ = ["suites"]


def _looks() -> Suite:
  """The suite that asks when EPS helps from ImageNet's weights: length, rate, or several looks."""
  arms = []
  for looks in ("glyphs", "standard"):
    for steps, rate in ((60, 1e-3), (60, 3e-3), (200, 1e-3), (200, 3e-3)):

      def base(looks: str = looks, steps: int = steps, rate: float = rate) -> ConfigDict:
        config = tasks.imagenet()
        config.data.preprocess = looks
        config.optimizer.learning_rate = rate
        tasks.last_of(config, steps)
        return config

      what = {"glyphs": "slight warps", "standard": "crops and flips"}[looks]
      arms += [
        Arm(f"{what}, {steps} steps, rate {rate}", "multi_similarity", method, make, [{}])
        for method, make in (
          ("plain", with_recipes(base, "multisimilarity")),
          ("EPS", with_recipes(base, "multisimilarity,eps")),
        )
      ]
  about = "109 classes from ImageNet's weights, multi-similarity: when EPS helps"
  return Suite("looks", about, arms, ("map@r", "recall@1"))


def _groups() -> Suite:
  """EPS against how coarse the labels are: groups of M letters drawn at random are one class."""
  arms = []
  for size in (1, 4, 16):

    def base(size: int = size) -> ConfigDict:
      config = tasks.letters()
      config.data.label = f"label//{size}"
      config.data.eval_label = "label"
      config.data.images_per_class = 16
      return config

    arms += [
      Arm(f"letters in groups of {size}", loss, method, with_recipes(base, recipe + names), [{}])
      for loss, recipe in (("triplet", "triplet"), ("multi_similarity", "multisimilarity"))
      for method, names in (("plain", ""), ("EPS", ",eps"))
    ]
  about = "trained on random groups of 1, 4 and 16 letters, searched by letter: when EPS helps"
  metrics = ("map@r", "recall@1", "collapse/within/map@r", "collapse/modes_kept")
  return Suite("groups", about, arms, metrics)


def _collapse(
  name: str,
  about: str,
  task: str,
  base: Callable[[], ConfigDict],
  candidates: Sequence[Mapping[str, Any]],
  methods: Mapping[str, str],
) -> Suite:
  """All positives against EPS on a task with coarse labels."""
  arms = [
    Arm(
      task=task,
      loss=loss,
      method=method,
      make=with_recipes(base, recipe + names),
      candidates=candidates,
    )
    for loss, recipe in LOSSES.items()
    for method, names in methods.items()
  ]
  metrics = ("map@r", "recall@1", "collapse/within/map@r", "collapse/modes_kept")
  return Suite(name, about, arms, metrics)


def suites() -> list[Suite]:
  """All of them."""
  return [
    _looks(),
    _collapse(
      "collapse",
      "trained on the base letter, searched by code point: all positives against EPS",
      "base letter -> code point",
      tasks.base_letters,
      RATES,
      {"plain": "", "EPS": ",eps"},
    ),
    _collapse(
      "scripts",
      "trained on the script, searched by code point: all positives against EPS",
      "script -> code point",
      tasks.scripts,
      [{}],
      {"plain": "", "EPS": ",eps"},
    ),
    _groups(),
    _collapse(
      "digits",
      "trained on even/odd, searched by digit: all positives against EPS",
      "even/odd -> digit",
      tasks.parity,
      [{}],
      # A random positive is the control: as few positives as EPS has, but not the nearest.
      {"plain": "", "random positive": ",random", "EPS": ",eps"},
    ),
  ]
