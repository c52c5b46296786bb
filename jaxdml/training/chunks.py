"""Batches larger than the encoder's activations fit: encode in chunks, keep the loss global."""

from __future__ import annotations

from collections.abc import Callable

import jax

from jaxdml.types import Array, PyTree

__all__ = ["encode_in_chunks"]


def encode_in_chunks(
  encode: Callable[[Array], tuple[Array, PyTree]], images: Array, chunk_size: int
) -> tuple[Array, PyTree]:
  """Encodes `chunk_size` images at a time; the backward pass encodes each chunk again.

  Only the features of the whole batch are kept, so a loss over all of them (every pair, every
  mined triplet) costs the activations of one chunk, and the gradient is that of the whole batch:
  GradCache (Gao et al., arXiv 2101.06983), here as a scan of rematerialised chunks.

  Where the encoder's BatchNorm uses the statistics of what it sees, it sees a chunk: only with
  frozen BatchNorm, or none, is the result independent of `chunk_size`. A chunk takes every
  (n / chunk_size)-th image, so that it holds as many classes as it can.

  On a CPU, XLA takes about fifty times as long for the kernel gradient of a convolution inside a
  loop (jax 0.10 and 0.12): there, use chunks with encoders made of matrix products (convnet, ViT).

  Args:
    encode: images [c, ...] -> (features [c, d], updates of the running statistics).
    images: [n, ...], n a multiple of `chunk_size`.
    chunk_size: c; 0 or n encodes all at once.

  Returns:
    Features [n, d] in the order of the images, and the updates averaged over the chunks.
  """
  total = images.shape[0]
  if chunk_size in (0, total):
    return encode(images)
  shape = (chunk_size, total // chunk_size)
  chunks = images.reshape(*shape, *images.shape[1:]).swapaxes(0, 1)

  # Inside a scan XLA cannot merge the second encoding with the first.
  again = jax.checkpoint(encode, prevent_cse=False)
  features, updates = jax.lax.map(again, chunks)
  features = features.swapaxes(0, 1).reshape(total, *features.shape[2:])
  return features, jax.tree.map(lambda x: x.mean(0), updates)
