"""Encoding in chunks: the gradient of the whole batch in the memory of one chunk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining, models
from jaxdml.training import parallel
from jaxdml.training.networks import encode_in_chunks
from tests.training.helpers import build_program, fake_batch, tiny_config

SIZE = 1024
OPTIONS = {"encoder.frozen_bn": True, "loss.name": "multi_similarity"}


@pytest.fixture(scope="module")
def problem():
  """(value and gradient of a loss over 1,024 images by chunk size, parameters)."""
  encoder = models.create("convnet", widths=(4, 8), grid=2, frozen_bn=True)
  key = jax.random.key(0)
  images = jax.random.normal(key, (SIZE, 16, 16, 1))
  variables = encoder.init(key, images[:1], train=False)
  labels = jnp.arange(SIZE) // 4

  def value_and_grad(chunk_size):
    def loss(params):
      apply = lambda x: encoder.apply({**variables, "params": params}, x, train=True, mutable=["x"])
      features, _ = encode_in_chunks(apply, images, chunk_size)
      return losses.multi_similarity_loss(features, labels, mining_fn=mining.nearest_positive)

    return jax.jit(jax.value_and_grad(loss))

  return value_and_grad, variables["params"]


def test_the_gradient_is_that_of_the_whole_batch(problem):
  value_and_grad, params = problem
  value, grad = value_and_grad(0)(params)
  chunked_value, chunked_grad = value_and_grad(64)(params)
  np.testing.assert_allclose(chunked_value, value, rtol=1e-6)
  largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grad))
  assert largest > 1e-3
  for one, other in zip(jax.tree.leaves(grad), jax.tree.leaves(chunked_grad), strict=True):
    np.testing.assert_allclose(other, one, rtol=1e-4, atol=2e-6 * largest)


def test_only_one_chunk_of_activations_is_held(problem):
  value_and_grad, params = problem
  held = lambda chunk_size: (
    value_and_grad(chunk_size).lower(params).compile().memory_analysis().temp_size_in_bytes
  )
  # The matrix of distances and the chunks of images remain.
  assert held(64) < held(0) - SIZE * 8 * 8 * 4 * 4


@pytest.mark.slow
@pytest.mark.parametrize("mapped", [False, True])
def test_training_steps_are_the_same(mapped):
  def trained(chunk_size):
    config = tiny_config(**OPTIONS, **{"encoder.chunk_size": chunk_size})
    axis = parallel.AXIS if mapped else None
    program = build_program(
      config, num_classes=20, total_steps=2, steps_per_epoch=2, axis_name=axis
    )
    state = jax.jit(program.init)(jax.random.key(0))
    if not mapped:
      step_fn = jax.jit(program.step)
      return [step_fn(state, fake_batch(0))[1][name] for name in ("loss", "grad_norm")]
    state, batch = parallel.replicate(state), parallel.split(fake_batch(0))
    metrics = parallel.unreplicate(parallel.compile_step(program.step)(state, batch)[1])
    return [metrics[name] for name in ("loss", "grad_norm")]

  np.testing.assert_allclose(trained(2), trained(0), rtol=1e-5)


def test_chunks_with_batchnorm_average_their_statistics():
  """A chunk is every third image, and each moves the running mean from the same start."""
  seen = []

  def encode(x):
    seen.append(x.shape)
    return x, {"mean": 0.9 * 5.0 + 0.1 * x.mean()}

  images = jnp.arange(6.0).reshape(6, 1)
  features, updates = encode_in_chunks(encode, images, 2)
  np.testing.assert_array_equal(features, images)
  np.testing.assert_allclose(updates["mean"], 4.5 + 0.1 * 2.5)
  assert set(seen) == {(2, 1)}


def test_a_chunk_holds_images_of_many_classes():
  encode = lambda x: (jnp.broadcast_to(x.min(), x.shape), {})
  first_of_chunk, _ = encode_in_chunks(encode, jnp.arange(6.0).reshape(6, 1), 3)
  np.testing.assert_array_equal(first_of_chunk[:, 0], [0, 1, 0, 1, 0, 1])
