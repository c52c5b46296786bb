"""Hidden activations of pulled partners, a block of anchors at a time (arXiv 1903.05503)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdml._arguments import together
from jaxdml.distances import matmul_transposed, safe_sqrt
from jaxdml.hdml._layers import Dense
from jaxdml.hdml.pull import pull_factors
from jaxdml.hdml.tuples import Mined, Tuples, nearest_distances
from jaxdml.losses._blocks import Blocks, Sizes, by_platform, split
from jaxdml.losses._rows import zeros
from jaxdml.types import Array, PyTree

# Hidden activations of a block: what a CPU's cache holds with what is computed from them, or a part
# of an accelerator's memory.
_CPU_ELEMENTS, _ELEMENTS = 2**19, 2**26

_frozen = jax.lax.stop_gradient
_product = functools.partial(jnp.matmul, precision="highest")


@jax.custom_vjp
def _square_distances(x: Array, y: Array) -> Array:
  """||x_i - y_j||^2 [n, m], as differences: exact for near points; gradients are products."""
  return jnp.sum(jnp.square(x[:, None] - y), axis=-1)


def _square_distances_bwd(residuals, bar):
  # Differences alone matter: around their centre nothing cancels.
  center = jnp.mean(residuals[1], axis=0)
  x, y = (a - center for a in residuals)
  of_rows = 2.0 * (jnp.sum(bar, axis=1)[:, None] * x - _product(bar, y))
  return of_rows, 2.0 * (jnp.sum(bar, axis=0)[:, None] * y - _product(bar.T, x))


_square_distances.defvjp(lambda x, y: (_square_distances(x, y), (x, y)), _square_distances_bwd)


@jax.custom_vjp
def _mixtures(p: Array, q: Array, t: Array) -> Array:
  """p_i + t_ij (q_j - p_i) [n, k, h] of p [n, h], q [k, h] and t [n, k]."""
  return p[:, None] + t[..., None] * (q - p[:, None])


def _mixtures_bwd(residuals, bar):
  p, q, t = residuals
  of_p = jnp.einsum("ij,ijh->ih", 1.0 - t, bar)
  ones = jnp.ones(len(t), bar.dtype)
  of_q = (ones @ (t[..., None] * bar).reshape(len(t), -1)).reshape(q.shape)
  return of_p, of_q, jnp.sum(bar * (q - p[:, None]), axis=-1)


_mixtures.defvjp(lambda p, q, t: (_mixtures(p, q, t), (p, q, t)), _mixtures_bwd)


def factors(anchors: Array, given: Array, tuples: Tuples, lam: Array | float) -> Array:
  """t [n, k]: a partner is z + t (partner - z); 1 where nothing is pulled (`pull_factors`)."""
  if given.ndim == 3:
    square = jnp.sum(jnp.square(given - anchors[:, None]), axis=-1)
  else:
    square = _square_distances(anchors, given)
    if tuples.index is not None:
      square = jnp.take_along_axis(square, tuples.index, axis=1)
  d_pos = nearest_distances(square, tuples.positive)
  return pull_factors(safe_sqrt(square), d_pos, lam, tuples.negative)[1]


class Block(NamedTuple):
  """A block of anchors with their partners; q is None where all anchors share theirs."""

  p: Array
  q: Array | None
  t: Array
  index: Array | None
  anchors: Array
  anchor_labels: Array
  labels: Array
  used: Array
  real: Array


def partners_of(block: Block, q: Array, center: Array) -> Array:
  """[b k, h]: what the ReLU leaves of the partners, less the centre; 0 in anchors of padding."""
  if block.q is not None:
    q = block.q
  elif block.index is not None:
    q = q[block.index]
  if q.ndim == 2:
    mixed = _mixtures(block.p, q, block.t)
  else:
    mixed = block.p[:, None] + block.t[..., None] * (q - block.p[:, None])
  hidden = jax.nn.relu(mixed) - _frozen(center)
  return jnp.where(block.real[:, None, None], hidden, 0.0).reshape(-1, hidden.shape[-1])


class Hidden(NamedTuple):
  """Hidden activations less their centre: of z [b, h] and the anchors [n, h]; partners in blocks.

  `block` holds all anchors, `sizes` how many of them at a time, `q` [m, h] is of the references
  that the anchors share, and `center` [h] a constant, around which sums of squares do not cancel.
  """

  z: Array
  anchors: Array
  block: Block
  sizes: Sizes
  q: Array
  center: Array

  def over_blocks(self, fn: Callable[[Array], PyTree]) -> PyTree:
    """The sum of fn(h [r, h]) over the blocks of partners, each made again for its gradient."""
    of_block = jax.checkpoint(lambda block, q: fn(partners_of(block, q, self.center)))
    add = lambda total, block: (jax.tree.map(jnp.add, total, of_block(block, self.q)), None)

    def over(size: int, block: Block) -> PyTree:
      cut = self._cut(block, size)
      shapes = jax.eval_shape(of_block, jax.tree.map(lambda a: a[0], cut), self.q)
      return jax.lax.scan(add, zeros(shapes), cut)[0]

    return by_platform(over, self.sizes, self.block)

  @property
  def blocks(self) -> Blocks:
    """The anchors as `losses._blocks` takes them."""
    return Blocks(self.block, self._cut, self.sizes)

  def frozen(self) -> "Hidden":
    """The same as constants."""
    return Hidden(*jax.tree.map(_frozen, self[:3]), self.sizes, *map(_frozen, self[4:]))

  def _cut(self, block: Block, size: int) -> Block:
    cut, is_real = split(block, len(self.anchors), size)
    return cut._replace(real=is_real)


def hidden_of(first: Dense, z, anchors, given, t, mined: Mined, block_size, axis_name, fixed):
  """`Hidden` of the embeddings; `fixed`: negatives are pulled towards constant anchors."""
  b, n, h, tuples = len(z), len(anchors), first.kernel.shape[1], mined.tuples
  everything = jnp.concatenate([z, anchors, given.reshape(-1, given.shape[-1])])
  pre = matmul_transposed(everything, first.kernel) + first.bias
  center = jnp.mean(jax.nn.relu(_frozen(pre)), axis=0)
  if axis_name is not None:
    center = together(jax.lax.pmean(center, axis_name), pre)
  p, q = pre[b : b + n], pre[b + n :]
  real = jax.nn.relu(pre[: b + n]) - center
  p, own = _frozen(p) if fixed else p, q.reshape(*given.shape[:-1], h) if given.ndim == 3 else None
  used = tuples.positive | tuples.negative
  labels = mined.labels, tuples.labels
  block = Block(p, own, t, tuples.index, real[b:], *labels, used, jnp.ones(n, bool))
  sizes = Sizes(*(block_size or max(1, e // (t.shape[1] * h)) for e in (_CPU_ELEMENTS, _ELEMENTS)))
  return Hidden(real[:b], real[b:], block, Sizes(*(min(size, n) for size in sizes)), q, center)
