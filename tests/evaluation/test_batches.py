"""Embedding batches, and the raw-pixel floor."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tqdm import tqdm

from jaxdml.evaluation import batches as batches_module
from jaxdml.evaluation import embed_batches, raw_pixels


def batches(n=10, size=4, devices=None):
  """`n` images in batches of `size`, the last one padded with copies of row 0."""
  images = np.arange(n * 4, dtype=np.float32).reshape(n, 2, 2, 1)
  for start in range(0, n, size):
    rows = np.arange(start, start + size)
    mask = rows < n
    rows = np.where(mask, rows, 0)
    batch = {"image": images[rows], "mask": mask, "label": rows % 3, "id": 100 + rows}
    if devices:
      batch = {k: v.reshape(devices, size // devices, *v.shape[1:]) for k, v in batch.items()}
    yield batch


def test_embed_drops_padding_and_keeps_order():
  compiled = []

  @jax.jit
  def apply_fn(images):
    compiled.append(images.shape)
    return images.reshape(images.shape[0], -1)[:, :2].astype(jnp.bfloat16)

  embeddings, columns = embed_batches(apply_fn, batches(), progress=False)
  assert embeddings.dtype == np.float32
  expected = np.arange(10)[:, None] * 4 + [0, 1]
  np.testing.assert_array_equal(embeddings, expected)
  np.testing.assert_array_equal(columns["id"], 100 + np.arange(10))
  np.testing.assert_array_equal(columns["label"], np.arange(10) % 3)
  assert sorted(columns) == ["id", "label"]
  assert compiled == [(4, 2, 2, 1)]


def test_embed_takes_batches_split_over_devices():
  def flat(images):
    return images.reshape(*images.shape[:-3], -1)

  whole = embed_batches(flat, batches(), progress=False)
  split = embed_batches(jax.vmap(flat), batches(devices=2), progress=False)
  np.testing.assert_array_equal(whole.embeddings, split.embeddings)
  np.testing.assert_array_equal(whole.columns["id"], split.columns["id"])


def test_embed_without_mask_and_with_a_bar(monkeypatch):
  bars = []

  class Bar(tqdm):
    def __init__(self, iterable, *, disable, **kwargs):
      super().__init__(iterable, **kwargs, file=io.StringIO())
      bars.append((self.total, disable))
      self.disable = True

  monkeypatch.setattr(batches_module, "tqdm", Bar)
  listed = [{k: v for k, v in batch.items() if k != "mask"} for batch in batches(n=8)]
  for progress in (True, False):
    result = embed_batches(lambda x: x.reshape(len(x), -1), listed, progress=progress)
    assert len(result.embeddings) == 8
  embed_batches(lambda x: x.reshape(len(x), -1), iter(listed), total=7)
  assert [total for total, _ in bars] == [2, 2, 7]
  assert [disable is True for _, disable in bars] == [False, True, False]


def test_embed_refuses_nothing_and_misfits():
  with pytest.raises(ValueError, match="at least one batch"):
    embed_batches(lambda x: x, [], progress=False)
  batch = {"image": np.zeros((2, 1, 1, 1)), "label": np.zeros(3)}
  with pytest.raises(ValueError, match=r"'label' to start with \(2,\) .* got shape \(3,\)"):
    raw_pixels([batch])


def test_raw_pixels():
  embeddings, columns = raw_pixels(batches())
  assert embeddings.shape == (10, 4)
  centred = raw_pixels(batches(), center=True).embeddings
  np.testing.assert_allclose(centred.mean(1), 0, atol=1e-6)
  np.testing.assert_allclose(centred, embeddings - embeddings.mean(1, keepdims=True))
  np.testing.assert_array_equal(columns["label"], np.arange(10) % 3)
