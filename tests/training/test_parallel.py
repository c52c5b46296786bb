"""Batches are on the devices before they are asked for, all of them, in order."""

import jax
import numpy as np
import pytest

from jaxdml.training import parallel


def _source(count, taken, error=None):
  for step in range(count):
    taken.append(step)
    yield {"image": np.full((16, 3), step, np.uint8), "label": np.arange(16) + step}
  if error:
    raise error


def test_the_next_batches_are_on_the_devices_while_a_step_runs():
  taken = []
  batches = parallel.prefetch(_source(5, taken))
  seen = []
  for step, batch in enumerate(batches):
    # This one, and the next already put; the one after that is not fetched yet.
    assert len(taken) == min(step + 2, 5)
    image, label = batch["image"], batch["label"]
    assert image.shape == (8, 2, 3) and isinstance(image, jax.Array)
    assert {(s.device, s.data.shape) for s in image.addressable_shards} == {
      (device, (1, 2, 3)) for device in jax.local_devices()
    }
    np.testing.assert_array_equal(label, np.arange(16).reshape(8, 2) + step)
    seen.append(int(image[0, 0, 0]))
  assert seen == [0, 1, 2, 3, 4]


def test_a_compiled_step_takes_them_as_they_lie():
  state = parallel.replicate({"sum": np.float32(0)})
  step = parallel.compile_step(
    lambda state, batch: ({"sum": state["sum"] + jax.lax.psum(batch["label"].sum(), "batch")}, {})
  )
  for batch in parallel.prefetch(_source(3, [])):
    state, _ = step(state, batch)
  assert parallel.unreplicate(state)["sum"] == 3 * 120 + 16 * 3


def test_an_error_comes_after_the_batches_before_it():
  batches = parallel.prefetch(_source(3, [], ValueError("damaged")))
  assert [int(next(batches)["label"][0, 0]) for _ in range(3)] == [0, 1, 2]
  with pytest.raises(ValueError, match="damaged"):
    next(batches)
  assert list(parallel.prefetch(_source(0, []))) == []
