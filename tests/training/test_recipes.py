"""Recipes: what each name sets, what names mean together, and programs built of them."""

import jax
import numpy as np
import pytest

from jaxdml import losses, training
from jaxdml.training import config as config_lib
from jaxdml.training import defaults, recipes
from jaxdml.training.metric_loss import MetricLoss
from tests.losses import names as loss_names
from tests.training.helpers import build_program, compiled, fake_batch, tiny_config, train

SEMIHARD, WEIGHTED = "semihard_negative", "distance_weighted_negative"
TUNED = ("npair", "triplet", "margin", "multi_similarity", "contrastive")
# For P x K batches: loss, positive, negative, slots of HDML (None: HDML is off).
ALL_PAIRS = {
  "npair": ("npair", "all_positives", "all_negatives", None),
  "npair,eps,hdml": ("npair", "nearest_positive", "all_negatives", 16),
  "triplet": ("triplet", "all_positives", f"expand_positives+{SEMIHARD}", None),
  "triplet,random": ("triplet", "random_positive", SEMIHARD, None),
  "triplet,eps": ("triplet", "nearest_positive", SEMIHARD, None),
  "triplet,hdml": ("triplet", "random_positive", SEMIHARD, 2),
  "hdml,eps,triplet": ("triplet", "nearest_positive", SEMIHARD, 2),
  "margin": ("margin", "all_positives", f"expand_positives+{WEIGHTED}", None),
  "margin,hdml": ("margin", "random_positive", WEIGHTED, 2),
  "multisimilarity,eps": ("multi_similarity", "nearest_positive", "multi_similarity_filter", None),
  "contrastive, hdml": ("contrastive", "all_positives", "all_negatives", 16),
}


def summary(config):
  slots = config.hdml.slots if config.hdml.enabled else None
  return config.loss.name, config.mining.positive, config.mining.negative, slots


@pytest.mark.parametrize("names", ALL_PAIRS)
def test_all_pairs(names):
  config = tiny_config(**{"hdml.alpha": 90.0, "mining.positive": "hardest_positive"})
  assert recipes.apply(config, names) is config
  assert summary(config) == ALL_PAIRS[names]
  assert config.loss.layout == "all_pairs"
  assert config.loss.learnable_beta == ("scalar" if "margin" in names else "none")
  alpha = {"npair": 1.0, "triplet": 0.06, "margin": 0.1, "contrastive": 0.2}
  assert config.hdml.alpha == (alpha[config.loss.name] if config.hdml.enabled else 90.0)
  mined = config.loss.name in ("triplet", "margin")
  assert config.loss.reducer == ("mean_elements" if mined else "")
  if "expand" in config.mining.negative:
    assert config.mining.options.to_dict() == {"max_positives": 3}
  training.resolve(config, 8)


def test_every_sentence_has_its_name():
  assert set(recipes.LOSSES) < set(recipes.RECIPES)
  for name, sentence in recipes.RECIPES.items():
    training.resolve(recipes.apply(tiny_config(), name), 1)
    assert sentence
  assert set(losses.LOSSES) < set(recipes.RECIPES)
  same = [recipes.apply(tiny_config(), name) for name in ("multisimilarity", "multi_similarity")]
  assert same[0].to_dict() == same[1].to_dict()


@pytest.mark.parametrize("name", losses.LOSSES)
def test_every_loss_may_be_named(name):
  """As it is by itself, with EPS, and with HDML where there are tuples to synthesise."""
  config = recipes.apply(tiny_config(**{"mining.positive": "nearest_positive"}), name)
  assert (config.loss.name, config.loss.layout) == (name, "all_pairs")
  assert config.mining.positive == "all_positives"
  if name not in TUNED:
    assert (config.loss.reducer, config.mining.negative) == ("", "all_negatives")
  training.resolve(config, 8)
  program = build_program(config, num_classes=20, total_steps=2, steps_per_epoch=2)
  state = jax.eval_shape(program.init, jax.random.key(0))
  assert jax.eval_shape(program.step, state, fake_batch(0))[1]["loss"].shape == ()
  training.resolve(recipes.apply(tiny_config(), f"{name},eps"), 8)
  config = recipes.apply(tiny_config(), f"{name},hdml")
  if name in loss_names.TUPLE:
    training.resolve(config, 8)
  else:
    with pytest.raises(config_lib.ConfigError, match=f"{name} has no tuples that HDML could"):
      training.resolve(config, 8)


def test_a_loss_starts_afresh():
  config = recipes.apply(tiny_config(), "margin,eps,hdml")
  config.loss.options = {"nu": 0.1}
  config.mining.options = {"cutoff": 0.4}
  recipes.apply(config, "npair")
  assert summary(config) == ALL_PAIRS["npair"]
  assert config.loss.to_dict() == tiny_config().loss.to_dict()
  assert config.mining.to_dict() == tiny_config().mining.to_dict()


def test_without_a_loss_the_names_refine():
  config = recipes.apply(tiny_config(), "triplet")
  config.mining.options.max_positives = 2
  recipes.apply(config, "hdml")
  assert summary(config) == ALL_PAIRS["triplet,hdml"]
  assert config.mining.options.to_dict() == {}
  recipes.apply(config, "eps")
  assert summary(config) == ALL_PAIRS["hdml,eps,triplet"]
  config = recipes.apply(tiny_config(), "margin")
  config.mining.options.cutoff = 0.4
  assert recipes.apply(config, "").mining.options.to_dict() == {"max_positives": 3, "cutoff": 0.4}
  assert recipes.apply(config, "eps").mining.options.to_dict() == {"cutoff": 0.4}


def test_many_positives_leave_room_for_negatives():
  config = tiny_config(**{"data.images_per_class": 64, "data.batch_size": 128})
  assert recipes.apply(config, "npair,hdml").hdml.slots == 63 + 13
  assert recipes.apply(config, "eps").hdml.slots == 16


@pytest.mark.parametrize("sampler", ["npair", "triplet"])
def test_batches_of_hdml(sampler):
  """The paper's two forms, with the dials left as they are; what mines a positive needs P x K."""
  make = lambda names: recipes.apply(
    tiny_config(**{"data.sampler": sampler, "data.batch_size": 128, "hdml.alpha": 90.0}), names
  )
  config = make("npair,hdml")
  assert (config.data.sampler, config.loss.layout) == ("npair", "npair")
  assert (config.data.images_per_class, config.data.batch_size) == (2, 128)
  assert (config.hdml.alpha, config.hdml.slots) == (90.0, 0)
  training.resolve(config, 8)
  config = make("triplet,hdml")
  assert (config.data.sampler, config.loss.layout) == ("triplet", "triplet")
  assert config.data.batch_size == 120
  assert (config.loss.distance, config.loss.reducer) == ("squared_euclidean", "sum")
  assert config.loss.options.to_dict() == {"margin": 1.0}
  assert (config.hdml.alpha, config.hdml.slots) == (90.0, 0)
  training.resolve(config, 8)
  for names, slots in (("npair,eps,hdml", 16), ("triplet,eps,hdml", 2), ("margin,hdml", 2)):
    config = make(names)
    assert (config.data.sampler, config.data.images_per_class) == ("pk", 4)
    assert config.loss.layout == "all_pairs"
    assert config.hdml.slots == slots
    assert config.hdml.alpha <= 1.0
    training.resolve(config, 8)


@pytest.mark.parametrize(
  ("names", "message"),
  [
    ("tripplet", "expected names of npair, triplet, margin, multisimilarity, contrastive, eps"),
    ("tripplet", "sphereface, .*; got 'tripplet'; did you mean 'triplet'?"),
    ("npair,triplet", "expected one of npair, .*, tuplet_margin; got npair and triplet"),
    ("eps,random", "expected one of eps, random, all; got eps and random"),
  ],
)
def test_refuses(names, message):
  config = tiny_config()
  with pytest.raises(config_lib.ConfigError, match=message):
    recipes.apply(config, names)
  assert config.to_dict() == tiny_config().to_dict()


def test_a_program_can_be_built():
  """HDML around a loss with a parameter, a random miner and EPS; shapes are kept."""
  config = recipes.apply(tiny_config(), "margin,eps,hdml")
  program = build_program(config, num_classes=20, total_steps=2, steps_per_epoch=2)
  state = jax.eval_shape(program.init, jax.random.key(0))
  after, metrics = jax.eval_shape(program.step, state, fake_batch(0))
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(after) == shapes(state)
  assert metrics["loss"].shape == ()
  assert state.params["loss"]["beta"].shape == ()


@pytest.mark.slow
def test_hdml_trains_the_margins_beta():
  """Random negatives and a learned boundary inside HDML: every group of parameters moves."""
  config = recipes.apply(tiny_config(**{"hdml.initial_average": 0.1}), "margin,hdml")
  config.data.batch_size = 16
  state, ((metrics,), after) = compiled(config).state, train(config, [fake_batch(0, 16)])
  assert metrics["finite"]
  assert float(metrics["hdml/trust_in_real"]) < 0.5  # The synthetics are heard.
  for name, before in state.params.items():
    moved = [
      np.any(np.asarray(x) != np.asarray(y))
      for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after.params[name]), strict=True)
    ]
    assert any(moved), name


def test_the_weighting_knows_the_dimension_behind_expand_positives():
  """The trainer fills in `dim` wherever distance_weighted_negative stands in the chain."""
  config = recipes.apply(defaults.get_config(), "margin")
  metric = MetricLoss(config, 20, 2, None)
  z = jax.ShapeDtypeStruct((16, config.embedding.dim), np.float32)
  labels = jax.ShapeDtypeStruct((16,), np.int32)

  def run(z, y, key):
    return metric({"loss": {"beta": 1.2}}, z, {"label": y, "index": y}, (), 0, key)[0]

  assert jax.eval_shape(run, z, labels, jax.random.key(0)).shape == ()


@pytest.mark.parametrize("loss", ["npair", "triplet", "margin", "multisimilarity"])
@pytest.mark.parametrize("methods", ["eps", "hdml", "eps,hdml"])
def test_the_plain_form_is_what_the_loss_alone_gives(loss, methods):
  config = recipes.apply(tiny_config(**{"eval.plain": True}), f"{loss},{methods}")
  plain, alone = recipes.plain(config), recipes.apply(tiny_config(), loss)
  assert (plain.mining.to_dict(), plain.loss.to_dict()) == (
    alone.mining.to_dict(),
    alone.loss.to_dict(),
  )
  assert not plain.hdml.enabled and not plain.eval.plain
  training.resolve(plain, 8)
