"""Nothing is lost in the mathematics: values and gradients are those that were saved."""

import numpy as np
import pytest

from jaxdml import distances, losses, mining
from tests.losses import save_values
from tests.losses.table import compiled


@pytest.fixture(scope="module")
def saved():
  with np.load(save_values.FILE) as file:
    return dict(file)


@pytest.mark.slow
@pytest.mark.parametrize("group", save_values.GROUPS)
def test_values_and_gradients_are_the_saved_ones(group, saved):
  computed = save_values.compute(group, everything=False, jit=compiled)
  assert len(computed) > 10
  save_values.check(computed, saved)


def test_every_name_is_saved():
  assert set(save_values.LOSSES) == set(losses.LOSSES)
  assert set(save_values.EVERY_DISTANCE) == set(distances.NAMES)
  assert {name for names in save_values.EVERY_MINER for name in names.split("+")} == set(
    mining.MINERS
  )


def test_a_change_of_a_few_millionths_shows(saved):
  name = "triplet/all_pairs/eps_semihard/dx"
  changed = saved[name].astype(float)
  changed[np.unravel_index(np.argmax(np.abs(changed)), changed.shape)] *= 1 + 3e-6
  with pytest.raises(AssertionError, match=name):
    save_values.check({name: changed}, saved)
