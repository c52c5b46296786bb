"""Images reach the device as uint8 and are normalised there, by the config's normalisation."""

import jax
import numpy as np
import pytest

from jaxdml.data import normalize
from tests.training.helpers import build_program, fake_batch, tiny_config


def _program(**overrides):
  return build_program(tiny_config(**overrides), num_classes=20, total_steps=5, steps_per_epoch=5)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_step_and_embedding_normalize_first(dtype):
  batch = fake_batch(0)
  assert batch["image"].dtype == np.uint8
  images = normalize.create("half", 1)(batch["image"])
  half = _program(**{"encoder.dtype": dtype})  # what data.preprocess=glyphs asks for
  unit = _program(**{"encoder.dtype": dtype, "data.normalize": "unit"})
  state = jax.jit(half.init)(jax.random.key(0))
  variables = {"params": state.params, "batch_stats": state.batch_stats}
  rtol, atol = (1e-4, 1e-5) if dtype == "float32" else (0.05, 0.02)
  close = {"rtol": rtol, "atol": atol}
  expected = jax.jit(half.embed)(variables, batch["image"])
  # Floats in the range of pixels that "unit" turns into what "half" makes of the pixels.
  np.testing.assert_allclose(jax.jit(unit.embed)(variables, 255 * images), expected, **close)
  assert not np.allclose(jax.jit(unit.embed)(variables, batch["image"]), expected, **close)
  _, metrics = jax.jit(half.step)(state, batch)
  _, others = jax.jit(unit.step)(state, {**batch, "image": 255 * images})
  np.testing.assert_allclose(metrics["loss"], others["loss"], **close)
