"""Networks with a softmax head, as anyone would write them in flax and optax.

Nothing of jaxdml is in here.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax

CLASSES = 98


class _Bottleneck(nn.Module):
  width: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    conv = partial(nn.Conv, use_bias=False, dtype=self.dtype)
    norm = partial(nn.BatchNorm, use_running_average=True, epsilon=1e-5, dtype=self.dtype)
    y = nn.relu(norm()(conv(self.width, (1, 1))(x)))
    y = nn.relu(norm()(conv(self.width, (3, 3), self.stride, padding=((1, 1), (1, 1)))(y)))
    y = norm()(conv(4 * self.width, (1, 1))(y))
    if x.shape != y.shape:
      x = norm()(conv(4 * self.width, (1, 1), self.stride)(x))
    return nn.relu(x + y)


class ResNet50(nn.Module):
  """With frozen BatchNorm, as metric learning fine-tunes it."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Returns logits."""
    x = nn.Conv(64, (7, 7), 2, padding=((3, 3), (3, 3)), use_bias=False, dtype=self.dtype)(x)
    x = nn.relu(nn.BatchNorm(use_running_average=True, epsilon=1e-5, dtype=self.dtype)(x))
    x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    for stage, blocks in enumerate((3, 4, 6, 3)):
      for block in range(blocks):
        stride = 2 if stage and not block else 1
        x = _Bottleneck(64 * 2**stage, stride, self.dtype)(x)
    return nn.Dense(CLASSES)(x.astype(jnp.float32).mean((1, 2)))


class _Block(nn.Module):
  width: int
  heads: int
  dtype: Any
  layer_scale: bool

  @nn.compact
  def __call__(self, x):
    dense = partial(nn.Dense, dtype=self.dtype)
    ones = nn.initializers.ones

    def scaled(name, y):
      return y * self.param(name, ones, (self.width,)).astype(y.dtype) if self.layer_scale else y

    y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(x)
    q, k, v = jnp.split(dense(3 * self.width)(y), 3, -1)
    heads = lambda t: t.reshape(*t.shape[:2], self.heads, -1)
    y = jax.nn.dot_product_attention(heads(q), heads(k), heads(v))
    x = x + scaled("scale_attention", dense(self.width)(y.reshape(x.shape)))
    y = nn.LayerNorm(epsilon=1e-6, dtype=self.dtype)(x)
    y = dense(self.width)(nn.gelu(dense(4 * self.width)(y), approximate=False))
    return x + scaled("scale_mlp", y)


class ViTS(nn.Module):
  """ViT-S with patches of `patch` pixels, and with LayerScale as DINOv2 has it."""

  dtype: Any
  patch: int = 16
  layer_scale: bool = False

  @nn.compact
  def __call__(self, x):
    """Returns logits."""
    width = 384
    x = nn.Conv(width, (self.patch,) * 2, self.patch, padding="VALID", dtype=self.dtype)(x)
    x = x.reshape(x.shape[0], -1, width)
    token = self.param("token", nn.initializers.zeros, (1, 1, width))
    x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, width)).astype(x.dtype), x], 1)
    x = x + self.param("positions", nn.initializers.zeros, x.shape[1:]).astype(x.dtype)
    for _ in range(12):
      x = _Block(width, 6, self.dtype, self.layer_scale)(x)
    x = nn.LayerNorm(epsilon=1e-6)(x[:, 0].astype(jnp.float32))
    return nn.Dense(CLASSES)(x)


_INCEPTION = (
  (64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64), (192, 96, 208, 16, 48, 64),
  (160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
  (256, 160, 320, 32, 128, 128), (256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128),
)  # fmt: skip


class GoogLeNet(nn.Module):
  """Caffe's, without its two extra classifiers."""

  dtype: Any

  @nn.compact
  def __call__(self, x):
    """Returns logits."""

    def unit(x, width, side, stride=1):
      pad = (side // 2, side // 2)
      return nn.relu(nn.Conv(width, (side, side), stride, (pad, pad), dtype=self.dtype)(x))

    def pool(x):  # A last partial window counts.
      ends = [(0, (-(-(side - 3) // 2)) * 2 + 3 - side) for side in x.shape[1:3]]
      return nn.max_pool(x, (3, 3), (2, 2), ends)

    def normalised(x):
      wide = x.astype(jnp.float32)
      energy = lax.reduce_window(wide**2, 0.0, lax.add, (1, 1, 1, 5), (1,) * 4, "SAME")
      return (wide / (1 + 1e-4 / 5 * energy) ** 0.75).astype(self.dtype)

    x = normalised(pool(unit(x, 64, 7, 2)))
    x = pool(normalised(unit(unit(x, 64, 1), 192, 3)))
    for index, (one, three, out3, five, out5, last) in enumerate(_INCEPTION):
      if index in (2, 7):
        x = pool(x)
      pooled = nn.max_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)))
      branches = (
        unit(x, one, 1), unit(unit(x, three, 1), out3, 3), unit(unit(x, five, 1), out5, 5),
        unit(pooled, last, 1),
      )  # fmt: skip
      x = jnp.concatenate(branches, -1)
    return nn.Dense(CLASSES)(x.astype(jnp.float32).mean((1, 2)))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
  "resnet50": ResNet50,
  "vit_s16": ViTS,
  "dinov2_s14": partial(ViTS, patch=14, layer_scale=True),
  "googlenet": GoogLeNet,
}
"""By the names of encoders in configs."""


def step_of(name: str, dtype: str, side: int, axis_name: str) -> tuple[Any, Any]:
  """(init(key), step(state, batch)) of a network with softmax and Adam, gradients summed."""
  network = NETWORKS[name](dtype=jnp.dtype(dtype))
  optimizer = optax.adam(1e-4)
  scale = jnp.array([0.229, 0.224, 0.225]) * 255

  def init(key):
    variables = network.init(key, jnp.zeros((1, side, side, 3)))
    return variables, optimizer.init(variables["params"])

  def step(state, batch):
    variables, opt_state = state
    images = ((batch["image"].astype(jnp.float32) - 128.0) / scale).astype(dtype)

    def loss_of(params):
      logits = network.apply({**variables, "params": params}, images)
      return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()

    loss, grads = jax.value_and_grad(loss_of)(variables["params"])
    grads = lax.pmean(grads, axis_name)
    updates, opt_state = optimizer.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return ({**variables, "params": params}, opt_state), {"loss": loss}

  return init, step
