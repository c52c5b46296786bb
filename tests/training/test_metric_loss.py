"""The loss of a config: an image that a small class repeats in the batch is no pair with itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import training
from jaxdml.training.config import ConfigError
from jaxdml.training.metric_loss import MetricLoss
from tests.training.helpers import compiled, fake_batch, tiny_config

# Two classes of two images, each in four slots of the batch, next to its own second augmentation.
RECORDS = np.repeat(np.arange(4), 2)
LABELS = np.repeat(np.arange(2), 4)


def embeddings():
  z = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
  z[1::2] = z[::2] + 0.01
  return jnp.asarray(z / np.linalg.norm(z, axis=1, keepdims=True))


def metric_of(**overrides):
  config = tiny_config(**{"loss.name": "contrastive", **overrides})
  return MetricLoss(training.resolve(config), 2, 1, None)


@pytest.mark.parametrize("size", [0, 64])
def test_the_easy_positive_is_another_image(size):
  metric = metric_of(**{"mining.positive": "nearest_positive", "memory.size": size})
  z, batch = embeddings(), {"label": jnp.asarray(LABELS), "index": jnp.asarray(RECORDS)}

  @jax.jit
  def call(index):
    memory, key = metric.init_memory(), jax.random.key(0)
    return metric({}, z, {**batch, "index": index}, memory, jnp.int32(0), key)[0]

  # By hand: each anchor's nearest of its class among the slots of the other image.
  d = np.linalg.norm(z[:, None] - z[None], axis=-1)
  other = (LABELS[:, None] == LABELS) & (RECORDS[:, None] != RECORDS)
  nearest = np.arange(8)[None] == np.where(other, d, np.inf).argmin(1)[:, None]
  want = metric.bind({})(
    z, batch["label"], distance_fn=metric.distance_fn,
    mining_fn=lambda pairs: pairs._replace(positive=jnp.asarray(nearest)[pairs.anchor]),
  )  # fmt: skip
  np.testing.assert_allclose(call(batch["index"]), want, rtol=1e-6)
  assert abs(float(call(jnp.arange(8)) - want)) > 0.1


@pytest.mark.parametrize("layout", ["npair", "triplet"])
def test_an_anchor_beside_itself_has_no_positive(layout):
  metric = metric_of(**{"loss.layout": layout, "data.sampler": layout})
  group = {"npair": 2, "triplet": 3}[layout]
  z = embeddings()[: 2 * group]
  labels = jnp.asarray({2: [0, 0, 1, 1], 3: [0, 0, 1, 1, 1, 0]}[group])
  records = jnp.arange(2 * group).at[1].set(0)

  @jax.jit
  def call(index, z):
    return metric({}, z, {"label": labels, "index": index}, (), jnp.int32(0), jax.random.key(0))[0]

  slope = jax.jit(jax.grad(call, argnums=1))
  # The first anchor's "positive" is itself: pulling it is no part of the loss.
  far = z.at[1].add(10.0)
  assert not np.allclose(call(jnp.arange(2 * group), z), call(jnp.arange(2 * group), far))
  if layout == "triplet":
    np.testing.assert_allclose(call(records, z), call(records, far), rtol=1e-6)
  assert np.isfinite(slope(records, z)).all()


@pytest.mark.slow
def test_hdml_learns_from_other_images_alone():
  config = tiny_config(**{"hdml.enabled": True, "hdml.slots": 2})
  _, state, step = compiled(config)
  batch = fake_batch(0)
  assert step(state, batch)[1]["loss/real"] > 0
  # Each class shows one image twice: it has no positive left.
  assert step(state, batch | {"index": batch["index"] // 2})[1]["loss/real"] == 0


def test_the_betas_of_classes_start_where_the_config_says():
  keys = {"loss.name": "margin", "loss.learnable_beta": "per_class"}
  config = tiny_config(**keys)
  start = lambda: MetricLoss(config, 3, 1, None).init_params(jax.random.key(0))["beta"].tolist()
  assert start() == pytest.approx([1.2] * 3)
  config.loss.options = {"beta": [0.9, 1.0, 1.1]}
  assert start() == pytest.approx([0.9, 1.0, 1.1])
  config.loss.options = {"beta": [0.9, 1.1]}
  with pytest.raises(
    ConfigError, match=r"beta: expected a number or one for each of the 3 classes"
  ):
    start()
