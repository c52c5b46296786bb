"""Vision transformers: sizes, tokens, positions, precision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxdml import models
from jaxdml.models.vit_layers import resize_positions, rotary_positions, rotated

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
  both = run("token+avg")
  np.testing.assert_allclose(both, np.concatenate([token, patches.mean((1, 2))], -1), rtol=1e-5)
  assert model.clone(pooling="token+avg").feature_dim == both.shape[1] == 32


@pytest.mark.parametrize("options, message", [
  ({"pooling": "gap"}, r"pooling: expected one of token, avg.*got 'gap'"),
  ({"class_token": False}, r"pooling: got 'token', but this ViT has no class token; take avg"),
  ({"activation": "relu"}, r"activation: expected one of gelu, .*; got 'relu'"),
  ({"qkv_bias": "q"}, r"qkv_bias: expected one of qkv, qv, none; got 'q'"),
  ({"interpolation": "linear"}, r"interpolation: expected one of antialias, plain, dino; got 'lin"),
  ({"norm_after": True}, r"norm_after: expected a pooling among avg, .*; got 'token'"),
  ({"heads": 3}, r"heads: expected a divisor of width 16, got 3"),
  ({"pooling": "flat", "flat_dim": 4}, r"images: pooling 'flat' has weights for 24x24 pixels .*32"),
  ({"pooling": "flat"}, r"images: pooling 'flat' .* needs flat_dim, got 32x32 and flat_dim 0"),
])  # fmt: skip
def test_fields_that_do_not_go_together(options, message):
  with pytest.raises(ValueError, match=message):
    tiny(**options).init(jax.random.key(0), images_of(32, 32), train=False)


def test_blocks_under_a_scan_are_the_same_function():
  """Values and gradients, with checkpoints too; its own initialisation has the same names."""
  model = tiny(grid=0, rope=100.0, registers=2, qkv_bias="qv", layer_scale=1.0, activation="swiglu")
  params, images = initialized(model)["params"], images_of(24, 24)
  scanned = model.clone(scan=True, remat=True)
  init = jax.jit(functools.partial(scanned.init, train=False))
  drawn = init(jax.random.key(0, impl="rbg"), images)["params"]
  assert jax.tree.map(jnp.shape, drawn) == jax.tree.map(jnp.shape, params)
  assert not np.array_equal(drawn["block0"]["fc2"]["kernel"], drawn["block1"]["fc2"]["kernel"])
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  jax.tree.map(close, step(scanned, params, images), step(model, params, images))


def test_a_scan_has_one_block_in_its_program():
  params = initialized(tiny())["params"]
  count = lambda model: str(jax.make_jaxpr(functools.partial(model.apply, train=False))(
    {"params": params}, images_of(24, 24))).count(" erfc ")  # fmt: skip
  assert (count(tiny()), count(tiny(scan=True))) == (2, 1)


def test_rotary_positions_turn_patches_alone_and_by_their_distance():
  rows, columns, size = 3, 4, 8
  rotation = rotary_positions(rows, columns, size, 100.0, 2)
  x = np.broadcast_to(np.arange(1.0, size + 1), (1, 2 + rows * columns, 1, size))
  turned = np.asarray(jax.jit(rotated)(x, rotation))[0, :, 0]
  np.testing.assert_array_equal(turned[:2], x[0, :2, 0])
  patches = turned[2:].reshape(rows, columns, size)
  # The product of two depends on the step between them, whatever their place.
  along = np.einsum("rcd,rcd->rc", patches[:, :-1], patches[:, 1:])
  np.testing.assert_allclose(along, np.full_like(along, along[0, 0]), rtol=1e-5)
  assert np.abs(along[0, 0] - np.sum(x[0, 0, 0] ** 2)) > 1.0
  np.testing.assert_allclose(np.linalg.norm(patches, axis=-1), np.linalg.norm(x[0, 0]), rtol=1e-6)


def test_a_head_of_all_patches_moves_its_statistics_in_training():
  model = tiny(class_token=False, pooling="flat", flat_dim=5)
  images = images_of(24, 24)
  init = jax.jit(functools.partial(model.init, train=False))
  variables = init(jax.random.key(0, impl="rbg"), images)
  run = functools.partial(model.apply, variables, images, mutable=["batch_stats"])
  features, updates = jax.jit(functools.partial(run, train=True))()
  assert features.shape == (2, 5) == (2, model.feature_dim)
  np.testing.assert_allclose(features.mean(0), np.zeros(5), atol=1e-5)
  moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), updates, {
    "batch_stats": variables["batch_stats"]})  # fmt: skip
  assert all(jax.tree.leaves(moved))


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
  for kind in ("plain", "dino"):
    other = resize_positions(rows, 4, 8, 2, kind).reshape(8, 2)
    np.testing.assert_allclose(other[:, 0], other[:, 1], rtol=1e-6)
    assert (np.diff(other[:, 0]) > 0).all()
    assert np.abs(other - resized).max() > 0.01


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
