"""HDML's Embedding and Generator: layer order, shared BatchNorm, initial scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml.models import Embedding, Generator, SoftmaxHead


def batch(n=16, d=6, seed=0):
  return jnp.asarray(2 + 3 * np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


def embedding_and_variables(**kwargs):
  model = Embedding(dim=4, **kwargs)
  return model, model.init(jax.random.key(1, impl="rbg"), batch(), train=False)


def normalized(y, epsilon):
  y = np.asarray(y, np.float64)
  return (y - y.mean(0)) / np.sqrt(y.var(0) + epsilon)


def test_embedding_is_batchnorm_then_dense():
  model, variables = embedding_and_variables()
  fc = variables["params"]["fc"]
  z, updates = model.apply(variables, batch(), train=True, mutable=["batch_stats"])
  np.testing.assert_allclose(
    z, normalized(batch(), 1e-3) @ np.asarray(fc["kernel"]) + fc["bias"], rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(updates["batch_stats"]["bn"]["mean"], 0.1 * batch().mean(0), rtol=1e-5)


def test_layer_norm_head_knows_no_batch():
  model, variables = embedding_and_variables(norm="layer")
  y, fc = np.asarray(batch(), np.float64), variables["params"]["fc"]
  rows = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
  expected = rows @ np.asarray(fc["kernel"]) + fc["bias"]
  np.testing.assert_allclose(model.apply(variables, batch(), train=True), expected, atol=1e-5)
  np.testing.assert_allclose(
    model.apply(variables, batch()[:1], train=True), expected[:1], atol=1e-5
  )
  with pytest.raises(ValueError, match="norm: expected one of batch, layer, none; got 'group'"):
    embedding_and_variables(norm="group")


def test_unit_norm_and_its_gradient_at_zero():
  model, variables = embedding_and_variables(norm="none", unit_norm=True)
  z = model.apply(variables, batch(), train=True)
  np.testing.assert_allclose(np.linalg.norm(z, axis=1), 1.0, rtol=1e-6)
  plain = Embedding(dim=4, norm="none").apply(variables, batch(), train=True)
  np.testing.assert_allclose(z, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-5)
  nothing = jax.tree.map(jnp.zeros_like, variables)
  value, grad = jax.value_and_grad(lambda y: model.apply(nothing, y, train=True).sum())(batch())
  assert value == 0.0 and not np.any(grad)


def test_generator_applies_batchnorm_after_the_relu():
  model = Generator(feature_dim=6, hidden=8)
  z = batch(d=4)
  variables = model.init(jax.random.key(2, impl="rbg"), z, train=False)
  fc1, fc2 = (variables["params"][name] for name in ("fc1", "fc2"))
  hidden = np.maximum(np.asarray(z) @ np.asarray(fc1["kernel"]) + fc1["bias"], 0)
  expected = normalized(hidden, 1e-3) @ np.asarray(fc2["kernel"]) + fc2["bias"]
  y, _ = model.apply(variables, z, train=True, mutable=["batch_stats"])
  assert y.shape == (16, 6)
  np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)


def test_synthetic_features_use_their_own_statistics_and_move_none():
  model, variables = embedding_and_variables()
  real, synthetic = batch(), batch(seed=3) * 5
  unasked = model.apply(variables, synthetic, train=True)
  asked, moved = model.apply(variables, synthetic, train=True, mutable=["batch_stats"])
  np.testing.assert_array_equal(unasked, asked)
  _, of_real = model.apply(variables, real, train=True, mutable=["batch_stats"])
  for a, b, c in zip(
    *map(jax.tree.leaves, (variables["batch_stats"], moved, of_real)), strict=True
  ):
    assert not np.array_equal(a, b) and not np.array_equal(b, c)


def test_private_synthetics_share_one_batchnorm():
  """[n, n, d] features, HDML's N-pair form, are n * n rows of one batch."""
  model, variables = embedding_and_variables()
  y = batch(n=9)
  flat = model.apply(variables, y, train=True)
  shaped = model.apply(variables, y.reshape(3, 3, -1), train=True)
  np.testing.assert_allclose(shaped.reshape(9, -1), flat, rtol=1e-5, atol=1e-6)


def test_kernel_scale_scales_the_initial_weights_only():
  model, variables = embedding_and_variables()
  scaled, scaled_variables = embedding_and_variables(kernel_scale=0.1)
  np.testing.assert_allclose(
    scaled_variables["params"]["fc"]["kernel"],
    0.1 * variables["params"]["fc"]["kernel"],
    rtol=1e-6,
  )
  np.testing.assert_array_equal(
    model.apply(scaled_variables, batch(), train=False),
    scaled.apply(scaled_variables, batch(), train=False),
  )


def test_embedding_without_batchnorm_and_with_a_frozen_one():
  model, variables = embedding_and_variables(norm="none")
  assert set(variables) == {"params"} and set(variables["params"]) == {"fc"}
  model, variables = embedding_and_variables(frozen_bn=True)
  z, updates = model.apply(variables, batch(), train=True, mutable=["batch_stats"])
  np.testing.assert_array_equal(z, model.apply(variables, batch(), train=False))
  jax.tree.map(np.testing.assert_array_equal, updates["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize(
  "model", [Embedding(dim=4, axis_name="batch"), Generator(feature_dim=4, axis_name="batch")]
)
def test_synchronised_statistics_equal_one_batch(model):
  y = batch()
  variables = model.init(jax.random.key(1, impl="rbg"), y, train=False)
  expected, expected_updates = model.clone(axis_name=None).apply(
    variables, y, train=True, mutable=["batch_stats"]
  )
  z, updates = jax.vmap(
    lambda y: model.apply(variables, y, train=True, mutable=["batch_stats"]), axis_name="batch"
  )(y.reshape(8, 2, -1))
  np.testing.assert_allclose(z.reshape(16, -1), expected, rtol=1e-4, atol=1e-5)
  for device in range(8):
    jax.tree.map(
      lambda a, b, device=device: np.testing.assert_allclose(a[device], b, rtol=1e-5, atol=1e-6),
      updates,
      expected_updates,
    )


@pytest.mark.parametrize("model", [Embedding(dim=4), Generator(feature_dim=4), SoftmaxHead(4)])
def test_bfloat16_returns_float32(model):
  model = model.clone(dtype=jnp.bfloat16)
  extra = () if isinstance(model, SoftmaxHead) else (False,)
  variables = model.init(jax.random.key(0, impl="rbg"), batch(), *extra)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
  assert model.apply(variables, batch(), *extra).dtype == jnp.float32


def test_constant_features_have_finite_gradients():
  model, variables = embedding_and_variables()

  def loss(params, y):
    return jnp.sum(model.apply({**variables, "params": params}, y, train=True) ** 2)

  for y in (jnp.zeros((4, 6)), jnp.ones((1, 6))):
    for leaf in jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(variables["params"], y)):
      assert np.isfinite(leaf).all()
