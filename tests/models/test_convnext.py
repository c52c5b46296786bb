"""ConvNeXt: its parts by hand, its stages, precision and checkpointing."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models
from jaxdml.models.convnext import ResponseNorm
from jaxdml.models.convolutions import DepthwiseConv
from tests.models.helpers import images_of, step

tiny = functools.partial(
  models.ConvNeXt, depths=(1,), widths=(4,), layer_scale=None, response_norm=True
)


@functools.cache
def variables():
  init = jax.jit(functools.partial(tiny().init, train=False))
  params = init(jax.random.key(0, impl="rbg"), images_of(1))["params"]
  rng = np.random.default_rng(1)
  # So large that every part matters, response normalisation's parameters too.
  noisy = lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape).astype(np.float32)
  return {"params": jax.tree.map(noisy, params)}


def test_response_norm_by_hand():
  """Norms 5, 0 and 1 have the mean 2; a channel of zeros has a gradient."""
  x = jnp.array([[3.0, 0.0, 0.0], [4.0, 0.0, 1.0]]).reshape(1, 1, 2, 3)
  params = {"scale": jnp.array([1.0, 1.0, 2.0]), "bias": jnp.array([0.0, 0.5, 0.0])}
  apply = lambda x: ResponseNorm().apply({"params": params}, x)
  expected = [[3 + 3 * 2.5, 0.5, 0], [4 + 4 * 2.5, 0.5, 1 + 2 * 0.5]]
  np.testing.assert_allclose(apply(x)[0, 0], expected, rtol=1e-5)
  assert np.isfinite(jax.grad(lambda x: apply(x).sum())(x)).all()
  start = ResponseNorm().init(jax.random.key(0), x)
  np.testing.assert_array_equal(ResponseNorm().apply(start, x), x)


def test_a_depthwise_convolution_with_bias_is_flax_s():
  x = images_of(2, side=9)
  ours = DepthwiseConv(7, use_bias=True)
  bias = {"bias": jnp.array([1.0, -2.0, 3.0])}
  params = {"params": ours.init(jax.random.key(0), x)["params"] | bias}
  theirs = nn.Conv(3, (7, 7), feature_group_count=3)
  np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), rtol=1e-4, atol=1e-5)


def test_stages_are_three_blocks_each():
  model = tiny(depths=(4, 1), widths=(4, 6), pooling="gem")
  assert model.stages == ("stem", "stage1_0", "stage1_3", "stage2_0", "pool", "norm")
  found = {
    part: model.stage_of((part, "kernel"))
    for part in ("stem_norm", "stage1_2", "stage1_3", "stage2_norm", "stage2_conv", "pool", "norm")
  }
  assert list(found.values()) == [
    "stem", "stage1_0", "stage1_3", "stage2_0", "stage2_0", "pool", "norm"
  ]  # fmt: skip
  assert models.create("convnext_base").stages == (
    "stem", "stage1_0", "stage2_0", *(f"stage3_{k}" for k in range(0, 27, 3)), "stage4_0", "norm"
  )  # fmt: skip


def test_precision_remat_and_blank_images():
  exact = step(tiny(), variables(), images_of(2))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
  jax.tree.map(close, step(tiny(remat=True), variables(), images_of(2)), exact)
  half = step(tiny(dtype=jnp.bfloat16), variables(), images_of(2))
  assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {jnp.dtype("float32")}
  assert not np.array_equal(half[0], exact[0])
  np.testing.assert_allclose(half[0], exact[0], atol=0.05 * np.abs(exact[0]).max())
  for leaf in jax.tree.leaves(step(tiny(), variables(), jnp.zeros((2, 32, 32, 3)))):
    assert np.isfinite(leaf).all()


def test_sizes_that_do_not_agree():
  with pytest.raises(ValueError, match="longer"):
    tiny(widths=(4, 6)).init(jax.random.key(0), images_of(1), train=False)
