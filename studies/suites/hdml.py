"""Suites of HDML: where it helps, by how far it pulls, and its dials."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from studies import rival, tasks
from studies.suites.arms import LOSSES, RATES, SAMPLED, Arm, Suite, with_recipes

__all__ = ["suites"]


def _letters() -> Suite:
  # What the synthetics count for, beta, is tuned along with the rate: it is HDML's first dial. The
  # head learns faster than by default, or the generator is not told apart 787 classes in time.
  head = {"optimizer.head_learning_rate": 1e-2, "hdml.slots": 8}
  synthetic = [
    {"optimizer.learning_rate": rate, "hdml.beta": beta, **head}
    for rate, beta in ((8e-3, 1.0), (4e-3, 1.0), (4e-3, 5.0))
  ]
  arms = []
  for loss, recipe in LOSSES.items():
    # HDML synthesises for one positive an anchor, so what it is compared with has one, too. Mined
    # for every positive, as these losses usually are, they are an arm of their own.
    plain, every = (",random", [("every positive", "")]) if loss in SAMPLED else ("", [])
    methods = [("plain", plain), ("EPS", ",eps"), ("HDML", ",hdml"), ("EPS+HDML", ",eps,hdml")]
    arms += [
      Arm(
        task="unseen letters",
        loss=loss,
        method=method,
        make=with_recipes(tasks.glyphs, recipe + names),
        candidates=synthetic if "HDML" in method else RATES,
      )
      for method, names in [*methods, *every]
    ]
  about = "letters never seen: every loss plain, with EPS, with HDML, with both"
  return Suite("glyphs", about, arms, ("map@r", "recall@1"))


def _dials(
  name: str,
  about: str,
  base: Callable[[], ConfigDict],
  shared: Mapping[str, Any],
  alphas: Sequence[float],
  warmup: str,
) -> Suite:
  """N-pair with and without HDML by how far negatives are pulled (alpha), and warmed up."""
  arms = [Arm("unseen letters", "npair", "plain", with_recipes(base, "npair"), [{}])]
  dials = {f"HDML alpha {alpha}": {"hdml.alpha": alpha} for alpha in alphas}
  dials["HDML alpha 0.3 warmed up"] = {"hdml.alpha": 0.3, "hdml.warmup": warmup}
  for method, own in dials.items():
    given = {"hdml.slots": 8, "optimizer.head_learning_rate": 1e-2, **shared, **own}
    arms.append(Arm("unseen letters", "npair", method, with_recipes(base, "npair,hdml"), [given]))
  return Suite(name, about, arms, ("map@r", "recall@1"))


def _pull() -> Suite:
  """The suite in which the head knows the classes."""
  about = "109 classes, N-pair: HDML by how far its negatives are pulled"
  shared = {"hdml.beta": 2.0}
  return _dials("pull", about, tasks.few_classes, shared, (0.1, 0.3, 1.0), warmup="500 steps")


def _pretrained() -> Suite:
  """From features that can be reconstructed; beta is in units of J_gen, of 1,280 features here."""
  about = "109 classes from ImageNet's weights: HDML by how far its negatives are pulled, and EPS"
  shared = {"hdml.beta": 50.0, "hdml.window": "16 steps"}
  alphas = (0.0, 0.1, 0.3)  # 0 is the control: tuples reconstructed, not pulled
  suite = _dials("pretrained", about, tasks.imagenet, shared, alphas, warmup="64 steps")
  task, recipe = "unseen letters", "multisimilarity"  # the loss of configs/finetune_photos.py
  easy = [
    Arm(task, "multi_similarity", method, with_recipes(tasks.imagenet, recipe + names), [{}])
    for method, names in (("plain", ""), ("EPS", ",eps"))
  ]
  return suite._replace(arms=[*suite.arms, *easy])


# The dials that set themselves; the weights in J_gen are for means.
_AUTO = {
  "hdml.alpha": "auto",
  "hdml.beta": "auto",
  "hdml.reconstruction_weight": 0.5,
  "hdml.soft_weight": 0.5,
  "hdml.sum_reconstruction": False,
}


def _sampled_arms(
  task: str,
  base: Callable[[], ConfigDict],
  rates: Sequence[float],
  by_hand: Sequence[tuple[float, float]] = (),
  **dials: Any,
) -> list[Arm]:
  """HDML around sampled triplets, its parts one by one, and the cheap way to hard negatives.

  "unpulled" is the control: tuples pass through generator and embedding, and alpha 0 pulls nothing.

  Args:
    task: in tables.
    base: its config.
    rates: learning rates to choose from.
    by_hand: pairs of alpha and beta, at the last of the rates; as many as there are rates.
    **dials: of `hdml`, for its arms.
  """
  plain = [{"optimizer.learning_rate": rate} for rate in rates]
  candidates = _synthetic(plain, **dials)
  if by_hand:
    candidates["HDML by hand"] = [
      candidates["HDML"][-1] | {"hdml.alpha": alpha, "hdml.beta": beta} for alpha, beta in by_hand
    ]
  return [
    Arm(task, "triplet", "plain", with_recipes(base, "triplet"), plain),
    Arm(task, "triplet", "nearest of five", rival.nearest_of_five(base), plain),
    *(
      Arm(task, "triplet", method, with_recipes(base, "triplet,hdml"), own)
      for method, own in candidates.items()
    ),
  ]


def _synthetic(plain: Sequence[Mapping[str, Any]], **dials: Any) -> dict[str, list[dict[str, Any]]]:
  """HDML and its control, at the same rates as the plain form."""
  own = {f"hdml.{name}": value for name, value in dials.items()}
  auto = [{**one, "optimizer.head_learning_rate": 1e-2, **_AUTO, **own} for one in plain]
  return {"HDML": auto, "HDML unpulled": [one | {"hdml.alpha": 0.0} for one in auto]}


def _sampled() -> Suite:
  """HDML around the losses for which its paper claims an effect."""
  rates = (1e-3, 3e-3)
  pairs = tasks.pairs_of(tasks.few_sampled)
  plain = [{"optimizer.learning_rate": rate} for rate in rates]
  arms = [
    *_sampled_arms("109 classes, triplets", tasks.few_sampled, rates, ((5.0, 0.3), (15.0, 0.3))),
    Arm("109 classes, N-pairs", "npair", "plain", with_recipes(pairs, "npair"), plain),
    *(
      Arm("109 classes, N-pairs", "npair", method, with_recipes(pairs, "npair,hdml"), candidates)
      for method, candidates in _synthetic(plain).items()
    ),
    *_sampled_arms("even/odd -> digit, triplets", tasks.parity_sampled, (2e-3,), ((5.0, 0.3),)),
  ]
  about = "HDML's own batches: sampled triplets and N-pairs, and the cheap way to hard negatives"
  return Suite("sampled", about, arms, ("map@r", "recall@1"))


def _sampled_elsewhere() -> list[Suite]:
  """The same from ImageNet's weights, and with eight times the classes."""
  pretrained = "109 classes, ImageNet's weights, triplets"
  return [
    Suite(
      "sampled_features",
      "HDML's own triplets of 109 classes, on features of ImageNet's weights that stay",
      _sampled_arms("109 classes, features, triplets", tasks.features_sampled, (1e-4, 3e-4, 1e-3)),
      ("map@r", "recall@1"),
    ),
    Suite(
      "sampled_imagenet",
      "HDML's own triplets of 109 classes, from ImageNet's weights at 32 pixels",
      _sampled_arms(pretrained, tasks.imagenet_sampled, (3e-3,), window="16 steps"),
      ("map@r", "recall@1"),
    ),
    Suite(
      "sampled_letters",
      "HDML's own triplets of all 874 training classes",
      _sampled_arms("unseen letters, triplets", tasks.letters_sampled, (3e-3,)),
      ("map@r", "recall@1"),
    ),
  ]


def _auto(
  name: str,
  task: str,
  base: Callable[[], ConfigDict],
  losses: Sequence[str],
  by_hand: Mapping[str, Any],
  **dials: Any,
) -> Suite:
  """The dials that set themselves beside those that tuning chose, at one learning rate."""
  shared = {"hdml.slots": 8, "optimizer.head_learning_rate": 1e-2}
  shared |= {f"hdml.{name}": value for name, value in dials.items()}
  arms = []
  for loss in losses:
    plain = LOSSES[loss] + (",random" if loss in SAMPLED else "")
    hdml = with_recipes(base, LOSSES[loss] + ",hdml")
    arms += [
      Arm(task, loss, "plain", with_recipes(base, plain), [{}]),
      Arm(task, loss, "HDML by hand", hdml, [{**shared, **by_hand}]),
      Arm(task, loss, "HDML auto", hdml, [{**shared, **_AUTO}]),
    ]
  about = f"HDML's dials that set themselves beside dials by hand, {task}"
  return Suite(name, about, arms, ("map@r", "recall@1"))


def _autos() -> list[Suite]:
  few, few_imagenet = "109 classes", "109 classes, ImageNet's weights, 32 pixels"
  pretrained = {"hdml.alpha": 0.3, "hdml.beta": 50.0}  # the best of the suite of that name
  return [
    _auto("auto", few, tasks.few_classes, ["npair"], {"hdml.alpha": 0.1, "hdml.beta": 2.0}),
    _auto("auto_letters", "unseen letters", tasks.letters, list(LOSSES), {"hdml.beta": 1.0}),
    _auto(
      "auto_imagenet", few_imagenet, tasks.imagenet_small, ["npair"], pretrained, window="16 steps"
    ),
  ]


def _curves() -> Suite:
  """Arms of `sampled` that are searched on the validation classes all along."""

  def often(make: Callable[[], ConfigDict]) -> Callable[[], ConfigDict]:
    def config() -> ConfigDict:
      config = make()
      config.train.evaluate_every = "100 steps"
      config.eval.select_by = "last"
      return config

    return config

  suite = _sampled()
  rate = {"optimizer.learning_rate": 3e-3}  # what tuning chose for each of them
  arms = [
    arm._replace(
      make=often(arm.make), candidates=[c for c in arm.candidates if rate.items() <= c.items()]
    )
    for arm in suite.arms
    if arm.task == "109 classes, triplets" and arm.method != "HDML by hand"
  ]
  about = "109 classes, sampled triplets: searched every 100 steps, for curves over training"
  return Suite("curves", about, arms, suite.metrics)


def suites() -> list[Suite]:
  """All of them."""
  return [
    _letters(), _pull(), _pretrained(), _sampled(), *_sampled_elsewhere(), *_autos(), _curves(),
  ]  # fmt: skip
