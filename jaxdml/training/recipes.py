"""Losses, EPS and HDML by name: `apply(config, "triplet,eps,hdml")`; encoders by `fine_tune`.

Naming a loss starts afresh, so that an arm of an experiment is its names and nothing else: neither
EPS nor HDML unless they are named too. Without a loss the names refine the config's own.
"""

import difflib
from collections.abc import Collection

from ml_collections import ConfigDict

from jaxdml import losses, models
from jaxdml.training.config import ConfigError

LOSSES = {
  **{"npair": "npair", "triplet": "triplet", "margin": "margin"},
  **{"multisimilarity": "multi_similarity", "contrastive": "contrastive"},
  **{name: name for name in losses.LOSSES},
}
"""The losses here, each with its name in `jaxdml.losses.LOSSES`: all of those, under it too."""

_RECIPES = {
  "npair": "N-pair loss: inner products, every negative (Sohn, NIPS 2016)",
  "triplet": "triplet loss, margin 0.2, a semihard negative for each pair (arXiv 1503.03832); from "
  "HDML's own batches a sampled one, margin 1, summed (arXiv 1903.05503)",
  "margin": "margin loss, learned beta, distance-weighted negatives (arXiv 1706.07567)",
  "multisimilarity": "multi-similarity loss with its pair mining (arXiv 1904.06627)",
  "contrastive": "contrastive loss on the unit sphere, margins 0 and 1, every pair",
  "eps": "easy positive sampling: an anchor's positive is its nearest (arXiv 2006.05162)",
  "random": "the control of EPS: an anchor's positive is one at random",
  "all": "every positive of an anchor counts, and nothing else changes: beside it eps is measured",
  "hdml": "hardness-aware synthesis around the loss (arXiv 1903.05503)",
  "multi_similarity": "the same as multisimilarity",
}
RECIPES = _RECIPES | {
  name: f"{loss.fn.__doc__.splitlines()[0].removesuffix('.')}; by the loss's defaults"
  for name, loss in losses.LOSSES.items()
  if name not in _RECIPES
}
"""What `apply` takes, each with a sentence."""

_WAYS = ("lora", "head")  # in which `fine_tune` has an encoder learn
_POSITIVES = {
  "eps": "nearest_positive",
  "random": "random_positive",
  "all": "all_positives",
}
_NEGATIVES = {
  "triplet": "semihard_negative",
  "margin": "distance_weighted_negative",
  "multi_similarity": "multi_similarity_filter",
}
# Miners of one negative, which the papers run for each (anchor, positive).
_ONE_NEGATIVE = ("semihard_negative", "distance_weighted_negative")
# Partners synthesised for an anchor that has at most three positives.
_SLOTS = 16
# The mean over all pairs or triplets falls as training succeeds, the mean over active ones hardly
# does; trained with either they retrieve equally well. HDML's schedule reads the loss.
_REDUCERS = {"triplet": "mean_elements", "margin": "mean_elements"}
# alpha is in units of the loss. On glyphs lambda is about 2/3 after the first window; from there
# it falls with the loss, to 0.4 (N-pair, triplet) or hardly at all (multi-similarity).
_ALPHAS = {"npair": 1.0, "triplet": 0.06, "margin": 0.1}
_ALPHAS |= {"multi_similarity": 0.3, "contrastive": 0.2}
_FROM_SCRATCH = {
  **{"beta": 0.3, "reconstruction_weight": 0.5, "soft_weight": 0.5},
  **{"sum_reconstruction": False, "weighted_average": False},
}


def apply(config: ConfigDict, names: str) -> ConfigDict:
  """Sets loss, mining and HDML of a config as the names say, in place, and returns it.

  Batches: data.sampler=npair or triplet are HDML's own. There `npair` and `triplet` are its
  paper's two forms, and `hdml` leaves the dials of config.hdml alone. EPS and the other losses need
  several positives to choose from, so they turn these batches into P x K, K = 4. In batches of any
  other sampler each example is compared with all, and HDML's dials are for random weights.

  Rows: semihard and distance-weighted negatives are mined for each (anchor, positive). HDML has one
  row an anchor, so `triplet,hdml` and `margin,hdml` take one positive of each anchor, at random;
  `triplet,random` is what to compare them with.

  Losses with parameters (`losses.Loss.parameter`) have no tuples, and `training.resolve` refuses
  `hdml` with them.

  Args:
    config: with every key of jaxdml/training/defaults.py, its sampler and batch already set.
    names: of `RECIPES`, separated by commas: at most one loss, at most one of eps, random and all.

  Raises:
    ConfigError: for an unknown name, listing the valid ones, and for two of a kind.

  >>> from jaxdml.training import defaults
  >>> config = apply(defaults.get_config(), "triplet,eps")
  >>> config.loss.name, config.mining.positive, config.mining.negative
  ('triplet', 'nearest_positive', 'semihard_negative')
  """
  given = [name.strip() for name in names.split(",") if name.strip()]
  for name in given:
    if name not in RECIPES:
      near = difflib.get_close_matches(name, RECIPES, 1)
      hint = f"; did you mean {near[0]!r}?" if near else ""
      raise ConfigError(f"recipe: expected names of {', '.join(RECIPES)}; got {name!r}{hint}")
  loss, positive = _at_most_one(given, LOSSES), _at_most_one(given, _POSITIVES)
  of_hdml = config.data.sampler in ("npair", "triplet")
  if of_hdml and (positive or loss not in (None, "npair", "triplet")):
    config.data.sampler, config.data.images_per_class = "pk", 4
    config.loss.layout = "all_pairs"
  if loss:
    _set_loss(config, loss)
  if positive:
    config.mining.positive = _POSITIVES[positive]
  if "hdml" in given:
    config.hdml.enabled = True
    if config.loss.layout == "all_pairs":
      config.hdml.update(_FROM_SCRATCH, alpha=_ALPHAS.get(config.loss.name, 1.0))
  _set_rows(config)
  return config


def fine_tune(config: ConfigDict, names: str) -> str:
  """Sets the encoder and how it learns, in place, and returns the names that are left for `apply`.

  An encoder starts from the weights of a Python package where one carries them, else from its usual
  repository on the hub; images are made as large as config.data.image_size, or just smaller where
  its sides are multiples of more. `lora` trains adapters in its place (`encoder.lora`) at the
  embedding's rate, `head` trains the embedding alone.

  Args:
    config: with every key of jaxdml/training/defaults.py, its image size and rates already set.
    names: of `models.ENCODERS`, "lora", "head" and `RECIPES`, separated by commas; at most one
      encoder, and one of lora and head.

  Raises:
    ConfigError: for an unknown name, an encoder without published weights, or two of a kind.

  >>> from jaxdml.training import defaults
  >>> config = defaults.get_config()
  >>> fine_tune(config, "vit_s16,lora,triplet"), config.encoder.name, config.encoder.lora.rank
  ('triplet', 'vit_s16', 8)
  """
  given = [name.strip() for name in names.split(",") if name.strip()]
  known = [*models.ENCODERS, *_WAYS, *RECIPES]
  for name in given:
    if name not in known:
      near = difflib.get_close_matches(name, known, 1)
      hint = f"; did you mean {near[0]!r}?" if near else ""
      others = ", ".join([*_WAYS, *RECIPES])
      raise ConfigError(
        f"names: expected an encoder of docs/encoders.md, {others}; got {name!r}{hint}"
      )
  encoder, way = _at_most_one(given, models.ENCODERS), _at_most_one(given, _WAYS)
  if encoder:
    published = models.ENCODERS[encoder].published
    if published is None:
      raise ConfigError(f"names: {encoder} has no published weights to start from")
    config.encoder.name = encoder
    config.encoder.init = "imagenet" if published.bundled else "hf:"
    config.data.image_size -= config.data.image_size % models.create(encoder).sides[1]
  if way == "lora":
    config.encoder.lora.rank = 8
    config.optimizer.encoder_factor = 1.0
  elif way == "head":
    config.encoder.frozen_stages = len(models.create(config.encoder.name).stages)
  return ",".join(name for name in given if name not in (encoder, way))


def plain(config: ConfigDict) -> ConfigDict:
  """A copy without EPS and HDML, every positive counts: what the two are compared with."""
  config = ConfigDict(config).copy_and_resolve_references()
  config.mining.positive = "all_positives"
  config.hdml.enabled = False
  _set_rows(config)
  config.eval.update(raw_pixels=False, untrained=False, plain=False)
  return config


def _at_most_one(given: list[str], kind: Collection[str]) -> str | None:
  found = sorted(set(given) & set(kind))
  if len(found) > 1:
    raise ConfigError(f"recipe: expected one of {', '.join(kind)}; got {' and '.join(found)}")
  return found[0] if found else None


def _set_loss(config: ConfigDict, name: str) -> None:
  """The loss with nothing left of the one before, of EPS or of HDML."""
  loss = config.loss
  loss.name = LOSSES[name]
  loss.options, loss.init_options, loss.distance_options = {}, {}, {}
  loss.distance, loss.reducer = "", _REDUCERS.get(loss.name, "")
  loss.layout = "all_pairs"
  loss.learnable_beta = "scalar" if name == "margin" else "none"
  config.hdml.enabled = False
  config.mining.positive = "all_positives"
  config.mining.negative = _NEGATIVES.get(loss.name, "all_negatives")
  config.mining.options = {}
  if config.data.sampler in ("npair", "triplet"):
    config.data.sampler = loss.layout = name
    config.mining.negative = "all_negatives"
  if loss.layout == "npair":
    config.data.images_per_class = 2
  if loss.layout == "triplet":
    # Whole triplets, on 2, 4 and 8 devices too.
    config.data.batch_size -= config.data.batch_size % 24
    loss.distance, loss.reducer = "squared_euclidean", "sum"
    loss.options = {"margin": 1.0}


def _set_rows(config: ConfigDict) -> None:
  """A row for each (anchor, positive) or one an anchor, and HDML's slots for what they keep."""
  mining = config.mining
  miner = mining.negative.removeprefix("expand_positives+")
  if miner in _ONE_NEGATIVE:
    if mining.positive == "all_positives" and config.hdml.enabled:
      mining.positive = "random_positive"
    others = {k: v for k, v in mining.options.items() if k != "max_positives"}
    mining.negative, mining.options = miner, others
    if mining.positive == "all_positives":
      mining.negative = f"expand_positives+{miner}"
      mining.options = others | {"max_positives": config.data.images_per_class - 1}
  if not config.hdml.enabled:
    return
  if config.loss.layout != "all_pairs":
    config.hdml.slots = 0
  elif miner in _ONE_NEGATIVE:
    config.hdml.slots = 2
  elif mining.positive == "all_positives":
    # Positives come first: room for negatives besides.
    config.hdml.slots = _SLOTS + max(0, config.data.images_per_class - 4)
  else:
    config.hdml.slots = _SLOTS
