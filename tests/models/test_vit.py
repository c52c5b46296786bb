"""Vision transformers: sizes, tokens, positions, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdml import models
from jaxdml.models.vit import resize_positions

tiny = functools.partial(models.ViT, width=16, depth=2, heads=2, patch=8, grid=3)


def images_of(height, width, n=2):
  pixels = np.random.default_rng(0).normal(size=(n, height, width, 3))
  return jnp.asarray(pixels, jnp.float32)


@functools.lru_cache
def initialized(model):
  init = jax.jit(functools.partial(model.init, train=False))
  params = init(jax.random.key(1, impl="rbg"), images_of(24, 24, 1))["params"]
  rng = np.random.default_rng(1)
  leaves, structure = jax.tree.flatten(params)
  # So large that every part matters.
  noisy = [leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
  return {"params": jax.tree.unflatten(structure, noisy)}


def applied(model, variables, images, train=False):
  return jax.jit(functools.partial(model.apply, train=train))(variables, images)


def test_stages_follow_each_other_from_input_to_output():
  model = tiny(registers=2, layer_scale=1.0)
  paths = traverse_util.flatten_dict(initialized(model)["params"])
  assert model.stages == ("patch_embed", "block0", "block1", "norm")
  assert {model.stage_of(path) for path in paths} == set(model.stages)
  for name in ("class_token", "position_embedding", "register_tokens"):
    assert model.stage_of((name,)) == "patch_embed"


def test_pooling_takes_the_token_or_the_patches():
  model = tiny(registers=2)
  variables, images = initialized(model), images_of(24, 40)
  run = lambda pooling: applied(model.clone(pooling=pooling), variables, images)
  patches = run("none")
  assert patches.shape == (2, 3, 5, 16)
  np.testing.assert_allclose(run("avg"), patches.mean((1, 2)), rtol=1e-5, atol=1e-6)
  token = run("token")
  assert token.shape == (2, 16)
  assert np.abs(token - patches.mean((1, 2))).max() > 0.1
  with pytest.raises(ValueError, match=r"pooling: expected one of token, avg.*got 'gem'"):
    model.clone(pooling="gem").init(jax.random.key(0), images, train=False)


def test_patches_are_where_they_were():
  """Without blocks a patch is normalised alone: changing one changes its place in the map."""
  model = tiny(depth=0, pooling="none")
  variables, images = initialized(model), images_of(24, 40, 1)
  changed = images.at[:, 8:16, 32:40].add(1.0)
  moved = applied(model, variables, changed) != applied(model, variables, images)
  assert np.argwhere(moved.any(-1)).tolist() == [[0, 1, 4]]


def test_every_patch_reaches_the_token_and_its_position_matters():
  model = tiny()
  variables, images = initialized(model), images_of(24, 24, 1)
  token = applied(model, variables, images)
  for row in range(0, 24, 8):
    other = applied(model, variables, images.at[:, row : row + 8].add(1.0))
    assert np.abs(other - token).max() > 1e-3
  swapped = jnp.concatenate([images[:, 8:], images[:, :8]], axis=1)
  assert np.abs(applied(model, variables, swapped) - token).max() > 1e-3


def test_positions_are_resized_along_the_right_axes():
  rows = jnp.repeat(jnp.arange(4.0), 4)[None, :, None]
  resized = resize_positions(rows, 4, 8, 2).reshape(8, 2)
  np.testing.assert_allclose(resized[:, 0], resized[:, 1], rtol=1e-6)
  assert (np.diff(resized[:, 0]) > 0).all()
  np.testing.assert_allclose(resized.mean(), 1.5, rtol=1e-6)
  assert resize_positions(rows, 4, 4, 4) is rows


@functools.partial(jax.jit, static_argnums=0)
def step(model, params, images):
  """Features and gradients in training mode."""
  features = lambda params: model.apply({"params": params}, images, train=True)
  return features(params), jax.grad(lambda p: jnp.sum(jnp.sin(features(p))))(params)


@pytest.mark.slow
def test_bfloat16_keeps_parameters_gradients_and_features_float32():
  params, images = initialized(tiny())["params"], images_of(24, 24)
  exact = step(tiny(), params, images)
  found = step(tiny(dtype=jnp.bfloat16), params, images)
  assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
  assert not np.array_equal(found[0], exact[0])
  np.testing.assert_allclose(found[0], exact[0], atol=0.05 * np.abs(exact[0]).max())


def test_normalisation_and_softmax_stay_float32_under_bfloat16():
  text = str(
    jax.make_jaxpr(functools.partial(tiny(dtype=jnp.bfloat16).apply, train=False))(
      initialized(tiny()), images_of(24, 24)
    )
  )
  lines = [line for line in text.splitlines() if " rsqrt" in line or " exp" in line]
  assert len(lines) >= 5 + 2  # two norms and a softmax a block, and the last norm
  assert all("f32[" in line and "bf16[" not in line for line in lines), lines


def test_remat_and_training_change_nothing():
  variables, images = initialized(tiny()), images_of(24, 24)
  expected = step(tiny(), variables["params"], images)
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, step(tiny(remat=True), variables["params"], images), expected)
  close(applied(tiny(), variables, images), expected[0])


def test_gradients_are_finite_for_blank_images():
  _, gradients = step(tiny(), initialized(tiny())["params"], jnp.zeros((2, 24, 24, 3)))
  for leaf in jax.tree.leaves(gradients):
    assert np.isfinite(leaf).all()
