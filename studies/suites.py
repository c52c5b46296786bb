"""The suites: which losses with which methods on which task, and what is tuned for each arm.

Every arm of a task trains for the same number of steps on the same batches and has the same number
of candidates to be tuned with. The candidates are compared on classes held out of the training
classes, with a seed that the results do not use; the test classes are not looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxdml.training import recipes
from studies import rival, tasks

__all__ = [
  "SUITES",
  "Arm",
  "Suite",
]


LOSSES = {
  "npair": "npair",
  "triplet": "triplet",
  "margin": "margin",
  "multi_similarity": "multisimilarity",
}
"""Name of a loss in tables -> in recipes."""
_SAMPLED = ("triplet", "margin")  # losses for which recipes mine one negative for each positive


class Arm(NamedTuple):
  """One way to train for a task.

  Attributes:
    task: what is trained on and asked for.
    loss: in tables.
    method: plain, EPS, HDML, EPS+HDML; or a control of them.
    make: the config, of seed 0.
    candidates: overrides of dotted keys to choose from; one means nothing to tune, as where the
      task has no class to hold out.
  """

  task: str
  loss: str
  method: str
  make: Callable[[], ConfigDict]
  candidates: Sequence[Mapping[str, Any]]


class Suite(NamedTuple):
  """A grid of arms.

  Attributes:
    name: of its tables.
    about: one line.
    arms: in the order of the tables.
    metrics: what its page shows, the first also tunes.
    costs: it also shows parameters that learn and wall time.
  """

  name: str
  about: str
  arms: Sequence[Arm]
  metrics: Sequence[str]
  costs: bool = False


def _config(base: Callable[[], ConfigDict], names: str) -> Callable[[], ConfigDict]:
  return lambda: recipes.apply(base(), names)


_RATES = [{"optimizer.learning_rate": rate} for rate in (2e-3, 4e-3, 8e-3)]


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
    plain, every = (",random", [("every positive", "")]) if loss in _SAMPLED else ("", [])
    methods = [("plain", plain), ("EPS", ",eps"), ("HDML", ",hdml"), ("EPS+HDML", ",eps,hdml")]
    arms += [
      Arm(
        task="unseen letters",
        loss=loss,
        method=method,
        make=_config(tasks.glyphs, recipe + names),
        candidates=synthetic if "HDML" in method else _RATES,
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
  arms = [Arm("unseen letters", "npair", "plain", _config(base, "npair"), [{}])]
  dials = {f"HDML alpha {alpha}": {"hdml.alpha": alpha} for alpha in alphas}
  dials["HDML alpha 0.3 warmed up"] = {"hdml.alpha": 0.3, "hdml.warmup": warmup}
  for method, own in dials.items():
    given = {"hdml.slots": 8, "optimizer.head_learning_rate": 1e-2, **shared, **own}
    arms.append(Arm("unseen letters", "npair", method, _config(base, "npair,hdml"), [given]))
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
  recipe = "multisimilarity"  # the loss of configs/finetune_photos.py
  easy = [
    Arm("unseen letters", "multi_similarity", method, _config(tasks.imagenet, recipe + names), [{}])
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


def _sampled() -> Suite:
  """HDML around the losses for which its paper claims an effect, and its parts one by one.

  "unpulled" is the control: tuples pass through generator and embedding, and alpha 0 pulls nothing.
  """
  head = {"optimizer.head_learning_rate": 1e-2, **_AUTO}
  grid = (
    # Learning rates to choose from; alpha and beta for the second of them, by hand.
    ("109 classes", tasks.few_sampled, (1e-3, 3e-3), ((5.0, 0.3), (15.0, 0.3))),
    ("even/odd -> digit", tasks.parity_sampled, (2e-3,), ((5.0, 0.3),)),
    ("even/odd -> digit, ImageNet's weights", tasks.digits_sampled_from_imagenet, (3e-3,), ()),
  )
  arms = []
  for task, base, rates, dials in grid:
    plain = [{"optimizer.learning_rate": rate} for rate in rates]
    auto = [candidate | head for candidate in plain]
    unpulled = [candidate | {"hdml.alpha": 0.0} for candidate in auto]
    by_hand = [auto[-1] | {"hdml.alpha": alpha, "hdml.beta": beta} for alpha, beta in dials]
    synthetic = {"HDML": auto, "HDML unpulled": unpulled}
    triplets, pairs = f"{task}, triplets", f"{task}, N-pairs"
    arms += [
      Arm(triplets, "triplet", "plain", _config(base, "triplet"), plain),
      Arm(triplets, "triplet", "nearest of five", rival.nearest_of_five(base), plain),
    ]
    arms += [
      Arm(triplets, "triplet", method, _config(base, "triplet,hdml"), candidates)
      for method, candidates in {**synthetic, "HDML by hand": by_hand}.items()
      if candidates
    ]
    if base is not tasks.few_sampled:
      continue  # N-pairs are of as many classes, and even and odd are two.
    of_pairs = tasks.pairs_of(base)
    arms.append(Arm(pairs, "npair", "plain", _config(of_pairs, "npair"), plain))
    arms += [
      Arm(pairs, "npair", method, _config(of_pairs, "npair,hdml"), candidates)
      for method, candidates in synthetic.items()
    ]
  about = "HDML's own batches: sampled triplets and N-pairs, and the cheap way to hard negatives"
  return Suite("sampled", about, arms, ("map@r", "recall@1"))


def _auto() -> Suite:
  """The dials that set themselves beside those that tuning chose, at one learning rate."""

  def letters() -> ConfigDict:
    config = tasks.glyphs()
    config.optimizer.learning_rate = 4e-3  # what tuning chose for most arms of other suites
    config.eval.validation_fraction = 0.0
    tasks.last_of(config, 400)
    return config

  arms = []
  for task, base, losses, dials in (
    ("109 classes", tasks.few_classes, ("npair",), {"hdml.alpha": 0.1, "hdml.beta": 2.0}),
    ("unseen letters", letters, LOSSES, {"hdml.beta": 1.0}),
  ):
    shared = {"hdml.slots": 8, "optimizer.head_learning_rate": 1e-2}
    for loss in losses:
      plain = LOSSES[loss] + (",random" if loss in _SAMPLED else "")
      arms += [
        Arm(task, loss, "plain", _config(base, plain), [{}]),
        Arm(
          task, loss, "HDML by hand", _config(base, LOSSES[loss] + ",hdml"), [{**shared, **dials}]
        ),
        Arm(task, loss, "HDML auto", _config(base, LOSSES[loss] + ",hdml"), [{**shared, **_AUTO}]),
      ]
  about = "HDML's dials that set themselves beside dials by hand"
  return Suite("auto", about, arms, ("map@r", "recall@1"))


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
          ("plain", _config(base, "multisimilarity")),
          ("EPS", _config(base, "multisimilarity,eps")),
        )
      ]
  about = "109 classes from ImageNet's weights, multi-similarity: when EPS helps"
  return Suite("looks", about, arms, ("map@r", "recall@1"))


# 1x1 convolutions, dense layers in all but name; of Lite0 they are 94 of 100 parameters.
_POINTWISE = r"(.*/)?(expand_conv|project_conv|head_conv)/kernel"


def _finetune() -> Suite:
  """Ways to fine-tune EfficientNet-Lite from ImageNet's weights, beside the frozen encoder.

  A head on features sees each image in one view, without augmentation. Digits have no class to hold
  out, so nothing is tuned there.
  """
  rates = [{"optimizer.learning_rate": rate} for rate in (1e-3, 3e-3)]
  features = "runs/features"
  ways: dict[str, dict[str, Any]] = {
    "plain": {},  # all of it at once, the encoder at a tenth of the rate
    "head on features": {"encoder.cache_features": features},
    "head on features, MLP": {"encoder.cache_features": features, "embedding.hidden": (512,)},
    "LoRA": {
      "encoder.lora.rank": 8, "encoder.lora.targets": _POINTWISE, "optimizer.encoder_factor": 1.0,
    },
    "averaged": {"train.ema_decay": 0.97},
  }  # fmt: skip
  arms = [
    Arm(task, "multi_similarity", way, _config(base, "multisimilarity"), [r | own for r in tried])
    for task, base, tried, stages in (
      ("letters, Lite0", tasks.imagenet_tuned, rates, ("50 steps: 3", "100 steps: all")),
      ("letters, Lite2", tasks.imagenet_tuned_lite2, rates, ("50 steps: 3", "100 steps: all")),
      ("digits, Lite0", tasks.digits_from_imagenet, rates[-1:], ("25 steps: 3", "50 steps: all")),
    )
    for way, own in {**ways, "staged": {"optimizer.unfreeze": stages}}.items()
  ]  # fmt: skip
  about = "from ImageNet's weights: frozen, a head on features, LoRA, all, in stages, averaged"
  return Suite("finetune", about, arms, ("map@r", "recall@1"), costs=True)


def _groups() -> Suite:
  """EPS against how coarse the labels are: groups of M letters drawn at random are one class."""
  arms = []
  for size in (1, 4, 16):

    def base(size: int = size) -> ConfigDict:
      config = tasks.glyphs()
      config.data.label = f"label//{size}"
      config.data.eval_label = "label"
      config.data.images_per_class = 16
      config.optimizer.learning_rate = 4e-3  # what tuning chose for most arms of other suites
      config.eval.validation_fraction = 0.0
      tasks.last_of(config, 400)
      return config

    arms += [
      Arm(f"letters in groups of {size}", loss, method, _config(base, loss_recipe + names), [{}])
      for loss, loss_recipe in (("triplet", "triplet"), ("multi_similarity", "multisimilarity"))
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
      make=_config(base, recipe + names),
      candidates=candidates,
    )
    for loss, recipe in LOSSES.items()
    for method, names in methods.items()
  ]
  metrics = ("map@r", "recall@1", "collapse/within/map@r", "collapse/modes_kept")
  return Suite(name, about, arms, metrics)


def _all() -> list[Suite]:
  return [
    _letters(),
    _pull(),
    _pretrained(),
    _sampled(),
    _auto(),
    _curves(),
    _looks(),
    _finetune(),
    _collapse(
      "collapse",
      "trained on the base letter, searched by code point: all positives against EPS",
      "base letter -> code point",
      tasks.base_letters,
      _RATES,
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


SUITES: dict[str, Suite] = {suite.name: suite for suite in _all()}
"""By name."""
