"""Low-rank adapters: the matrices they stand for, their gradient, what learns and what is kept."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models, training
from jaxdml.training import lora, networks, optimizers, parallel
from jaxdml.training.config import ConfigError
from tests.training.helpers import (
  build_program,
  compiled,
  fake_batch,
  tiny_config,
  train,
  train_on_all,
)

ADAPTED = {
  "encoder.lora.rank": 2,
  "encoder.lora.alpha": 6.0,
  "encoder.lora.targets": r"conv\d/kernel",
  "encoder.frozen_bn": True,
}
BATCHES = [fake_batch(step) for step in range(3)]


def adapter(rng, rows, columns, rank=2):
  return {"a": rng.normal(size=(rows, rank)), "b": rng.normal(size=(rank, columns))}


def test_merged_is_the_sum_of_both_paths():
  """x W' = x W + scale (x A) B, of a dense kernel and of a convolution's, in float64 and 32."""
  rng = np.random.default_rng(0)
  fc, conv = rng.normal(size=(5, 4)), rng.normal(size=(3, 3, 2, 4))
  adapters = {"fc": adapter(rng, 5, 4), "conv": {"kernel": adapter(rng, 18, 4)}}
  params = {"fc": fc, "conv": {"kernel": conv, "bias": np.ones(4)}}
  ours = lora.merge(params, adapters, 1.5)
  x, image = rng.normal(size=(7, 5)), rng.normal(size=(1, 6, 6, 2))
  both = x @ fc + 1.5 * (x @ adapters["fc"]["a"]) @ adapters["fc"]["b"]
  np.testing.assert_allclose(x @ ours["fc"], both, rtol=1e-12)
  assert ours["conv"]["bias"] is params["conv"]["bias"]

  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      jnp.float32(x), jnp.float32(kernel), (1, 1), "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
    )  # fmt: skip

  a, b = adapters["conv"]["kernel"].values()
  low = convolve(image, a.reshape(3, 3, 2, 2)) @ jnp.float32(b)
  both = convolve(image, conv) + 1.5 * low
  np.testing.assert_allclose(convolve(image, ours["conv"]["kernel"]), both, rtol=1e-5, atol=1e-5)
  on_device = lora.merge(*(jax.tree.map(jnp.float32, tree) for tree in (params, adapters)), 1.5)
  np.testing.assert_allclose(on_device["fc"], ours["fc"], rtol=1e-6, atol=1e-6)


NETS = {
  "vit": (models.ViT(width=16, depth=2, heads=2, patch=4, grid=4), r"block\d/(qkv|proj)/kernel"),
  "convolutions": (
    models.EfficientNetLite(layout=((1, 3, 1, 1, 8), (1, 5, 2, 6, 8)), head_width=32),
    r"(.*/)?(stem_conv|expand_conv|project_conv|head_conv)/kernel",
  ),
}


@pytest.mark.parametrize("case", NETS)
def test_merged_is_the_network_with_the_adapters_beside_its_layers(case):
  """Features with W' against those of layers that compute x W + scale (x A) B themselves."""
  encoder, targets = NETS[case]
  images = jnp.float32(np.random.default_rng(2).normal(size=(2, 32, 32, 3)))
  variables = jax.jit(encoder.init, static_argnames="train")(jax.random.key(0), images, train=False)
  adapters = lora.Lora(4, targets, lambda path: True).init(jax.random.key(1), variables["params"])
  moved = lambda a, b: {"a": a, "b": jax.random.normal(jax.random.key(b.size), b.shape)}
  is_one = lambda node: "a" in node
  adapters = jax.tree.map(lambda node: moved(**node), adapters, is_leaf=is_one)
  seen = []

  def beside(call, args, kwargs, context):
    own = adapters
    for name in context.module.path:
      own = own.get(name, {})
    if context.method_name != "__call__" or "kernel" not in own:
      return call(*args, **kwargs)
    seen.append(context.module.path)
    layer, (a, b) = context.module, own["kernel"].values()
    rank, options = a.shape[1], {"use_bias": False, "precision": "highest"}
    if isinstance(layer, nn.Conv):
      shape = {"kernel_size": layer.kernel_size, "strides": layer.strides}
      low = nn.Conv(rank, padding=layer.padding, parent=None, **shape, **options)
      a = a.reshape(*layer.kernel_size, -1, rank)
    else:
      low = nn.Dense(rank, parent=None, **options)
    return call(*args, **kwargs) + 0.5 * low.apply({"params": {"kernel": a}}, *args) @ b

  merged = lora.merge(variables["params"], adapters, 0.5)
  with jax.default_matmul_precision("highest"):
    apply = jax.jit(lambda variables: encoder.apply(variables, images, train=False))
    ours, without = apply(variables | {"params": merged}), apply(variables)
    with nn.intercept_methods(beside):
      theirs = jax.jit(lambda variables: encoder.apply(variables, images, train=False))(variables)
  assert len(seen) == len(jax.tree.leaves(adapters)) / 2 >= 4
  largest = np.abs(theirs).max()
  np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6 * largest)
  assert np.abs(theirs - without).max() > 0.1 * largest


def test_the_gradient_of_a_linear_regression():
  """L = |X W' - Y|^2 / 2: dA = scale G B^T, dB = scale A^T G with G = X^T (X W' - Y)."""
  rng = np.random.default_rng(1)
  x, y, w = rng.normal(size=(9, 5)), rng.normal(size=(9, 4)), rng.normal(size=(5, 4))
  adapters, scale = {"w": adapter(rng, 5, 4)}, 0.5

  def loss(adapters):
    return 0.5 * jnp.square(x @ lora.merge({"w": jnp.asarray(w)}, adapters, scale)["w"] - y).sum()

  gradient = jax.grad(loss)(jax.tree.map(jnp.asarray, adapters))["w"]
  a, b = adapters["w"].values()
  g = x.T @ (x @ (w + scale * a @ b) - y)
  np.testing.assert_allclose(gradient["a"], scale * g @ b.T, rtol=1e-4)
  np.testing.assert_allclose(gradient["b"], scale * a.T @ g, rtol=1e-4)


def test_adapters_alone_learn():
  config = tiny_config(**ADAPTED)
  program, start, _ = compiled(config)
  metrics, state = train(config, BATCHES)
  same = lambda a, b: jax.tree.map(np.array_equal, a, b)
  assert all(jax.tree.leaves(same(start.params["encoder"], state.params["encoder"])))
  before, after = start.params["lora"], state.params["lora"]
  assert set(before) == {"conv0", "conv1"} and before["conv0"]["kernel"]["a"].shape == (9, 2)
  assert not any(np.any(x["kernel"]["b"]) for x in before.values())
  assert not any(jax.tree.leaves(same(before, after)))
  # Two moments of what learns, and nothing of the encoder.
  learns = program.learns(state.params)
  assert set(learns) == {"lora", "embedding"}
  size = lambda tree: sum(np.size(x) for x in jax.tree.leaves(tree) if np.ndim(x))
  assert size(state.opt_state) == 2 * size(learns)
  # With B = 0 the first loss is that without adapters, and A has no gradient yet.
  plain = {"encoder.frozen_stages": 2, "encoder.frozen_bn": True}
  assert metrics[0]["loss/real"] == train(tiny_config(**plain), BATCHES[:1])[0][0]["loss/real"]
  first = train(config, BATCHES[:1])[1].params["lora"]
  assert np.array_equal(first["conv0"]["kernel"]["a"], before["conv0"]["kernel"]["a"])
  # What is read afterwards knows of no adapters, and is what trained: the host's product and
  # the step's agree.
  variables = networks.deployed(config, jax.tree.map(np.asarray, state)._asdict())
  assert set(variables["params"]) == {"encoder", "embedding"}
  inside = networks.merged(config, state.params)["encoder"]
  for ours, theirs in zip(
    *map(jax.tree.leaves, (variables["params"]["encoder"], inside)), strict=True
  ):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_frozen_stages_have_no_adapters_and_shares_hold():
  """The first stage is frozen; Adam's first step of B is the learning rate times its share."""
  keys = {"encoder.frozen_stages": 1, "optimizer.encoder_factor": 0.5, **ADAPTED}
  state = train(tiny_config(**keys), BATCHES[:1])[1]
  assert set(state.params["lora"]) == {"conv1"}
  moved = np.abs(state.params["lora"]["conv1"]["kernel"]["b"])
  np.testing.assert_allclose(moved, 0.5 * 1e-2, rtol=1e-2)


@pytest.mark.slow
def test_devices_and_ways_agree():
  config = tiny_config(**ADAPTED, **{"hdml.enabled": True, "hdml.slots": 3})
  one = train(config, BATCHES[:2])
  many = train_on_all(config, BATCHES[:2])
  for a, b in zip(one[0], many[0], strict=True):
    np.testing.assert_allclose(a["loss"], b["loss"], rtol=2e-3)
  got = parallel.unreplicate(many[1]).params["lora"]
  for a, b in zip(*map(jax.tree.leaves, (one[1].params["lora"], got)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
  step = parallel.compile_step(build_program(config, axis_name=parallel.AXIS).step, "shard_map")
  state = parallel.replicate(compiled(config, parallel.AXIS).state)
  for batch, of_pmap in zip(BATCHES[:2], many[0], strict=True):
    state, scalars = step(state, parallel.split(batch))
    loss = parallel.unreplicate(scalars)["loss"]
    np.testing.assert_allclose(loss, of_pmap["loss"], rtol=1e-6)
  mapped = parallel.unreplicate(state).params["lora"]
  for a, b in zip(*map(jax.tree.leaves, (got, mapped)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
  ("keys", "message"),
  [
    (
      {"targets": "qkv/kernel"},
      r"encoder.lora.targets: 'qkv/kernel' matches the whole path of no kernel that may learn; "
      "there are 2, as conv0/kernel, conv1/kernel",
    ),
    ({"targets": "("}, "encoder.lora.targets: '\\(' is no regular expression"),
    ({"targets": "bn0/scale"}, "encoder.lora.targets: expected kernels of dense layers or"),
    ({"rank": 5}, r"encoder.lora.rank: expected at most 4, as conv0/kernel is \[9, 4\]; got 5"),
    ({"rank": -1}, "encoder.lora.rank: expected a number of at least 0; got -1"),
    ({"alpha": 0.0}, "encoder.lora.alpha: expected a positive number; got 0.0"),
  ],
)
def test_refuses(keys, message):
  config = tiny_config(**ADAPTED)
  config.encoder.lora.update(keys)
  with pytest.raises(ConfigError, match=message):
    networks.build(training.resolve(config)).abstract()


@pytest.mark.parametrize(
  "name", ["clip_b16", "dinov2_s14_reg", "dinov3_s16plus", "siglip_b16", "unicom_b16", "vit_s16"]
)
def test_of_each_family_attention_has_adapters_and_each_stage_its_share(name):
  config = training.default_config()
  config.encoder.update(name=name, lora={"rank": 2})
  config.data.update(channels=3, image_size=224)
  config.optimizer.layer_decay = 0.5
  embedder = networks.build(training.resolve(config))
  params = embedder.abstract()["params"]
  assert {(b, k) for b in params["lora"] for k in params["lora"][b]} == {
    (f"block{block}", kernel) for block in range(12) for kernel in ("qkv", "proj")
  }
  share_fn, stages = optimizers.encoder_shares(config, embedder.encoder, 1), embedder.encoder.stages
  paths = [[key.key for key in path] for path, _ in jax.tree.leaves_with_path(params["encoder"])]
  shares = {share_fn(path).factor for path in paths}
  assert shares == {0.5**distance for distance in range(len(stages))}
