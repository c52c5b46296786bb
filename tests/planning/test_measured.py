"""Steps of a tiny config on the devices that are here, timed."""

import types

import jax
import pytest

from jaxdml import planning
from jaxdml.training import ConfigError
from tests.training.helpers import tiny_config


def test_a_step_is_timed_and_its_loss_is_that_of_any_way_to_make_it():
  said = []
  way = {"train.parallel": "shard_map"}
  whole = planning.measure(tiny_config(), num_classes=20, steps=2, say=said.append)
  other = planning.measure(tiny_config(**way), num_classes=20, images_per_chip=4, steps=1)
  assert (whole.images, whole.devices) == (other.images, other.devices) == (4, 8)
  assert whole.compile_seconds > whole.seconds > 0
  assert whole.images_per_second == 4 / whole.seconds
  assert whole.loss == pytest.approx(other.loss, rel=1e-5)
  assert said == ["compiling the step of 4 images on each of 8 x cpu"]


def test_classes_that_nobody_knows_and_batches_that_do_not_fit_are_refused():
  with pytest.raises(planning.PlanError, match="--num_classes: needed"):
    planning.measure(tiny_config(**{"data.dataset": "image_folder/nobody"}))
  with pytest.raises(ConfigError, match="not divisible by the 8 devices"):
    planning.measure(tiny_config(**{"data.batch_size": 36}), num_classes=20)


@pytest.mark.parametrize(
  "kind, name",
  [("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("NVIDIA H100 80GB HBM3", "h100"), ("cpu", None)],
)
def test_a_device_is_known_by_what_jax_calls_it(kind, name):
  assert planning.name_of(types.SimpleNamespace(device_kind=kind)) == name
  assert planning.name_of(jax.devices()[0]) is None
