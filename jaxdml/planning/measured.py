"""`measure(config)`: a config's training step on the devices that are here, timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml.planning import plans
from jaxdml.training import parallel, setup


class Measured(NamedTuple):
  """A training step as this machine runs it, without the input pipeline."""

  images: int  # of a step, on each device
  devices: int
  compile_seconds: float  # of the first step, which compiles
  seconds: float  # of a step after it, the median
  loss: float  # of the first step: equal for equal settings

  @property
  def images_per_second(self) -> float:
    """Images of a second on each device."""
    return self.images / self.seconds


def measure(
  config: ConfigDict, *, num_classes: int | None = None, images_per_chip: int | None = None,
  steps: int = 5, say: Callable[[str], None] = lambda text: None,
) -> Measured:  # fmt: skip
  """Compiles a config's training step for all devices of this host, and times it.

  Pixels are noise and classes come in groups of `data.images_per_class`, so neither a data set nor
  weights have to be here, and the devices never wait for images: what `plan` bounds from above.

  Args:
    config: of `training.default_config`, as for training; `train.parallel` says how it is split.
    num_classes: training classes; by default those of the config's data set.
    images_per_chip: a step's; by default data.batch_size over the devices.
    steps: timed after the first one.
    say: is told what is compiled, as it takes minutes.

  Raises:
    PlanError: the number of classes is not known.
    ConfigError: the config cannot run, or not on so many devices.
  """
  devices = jax.local_device_count()
  config, classes = plans.sized(config, devices, num_classes, images_per_chip)
  config = setup.resolve(config, devices)
  program = plans.build(config, classes)
  images = config.data.batch_size // devices
  kind = jax.devices()[0].device_kind
  say(f"compiling the step of {images} images on each of {devices} x {kind}")
  step = parallel.compile_step(program.step, config.train.parallel)
  arrays = next(parallel.prefetch([_noise(config, classes)]))
  state = parallel.replicate(jax.jit(program.init)(jax.random.key(config.seed)))
  jax.block_until_ready((state, arrays))
  times, loss = [], 0.0
  for number in range(steps + 1):
    start = time.perf_counter()
    state, metrics = jax.block_until_ready(step(state, arrays))
    times.append(time.perf_counter() - start)
    if not number:
      loss = float(parallel.unreplicate(metrics)["loss/real"])
  return Measured(images, devices, times[0], float(np.median(times[1:])), loss)


def _noise(config: Any, classes: int) -> dict[str, np.ndarray]:
  """A global batch of random pixels."""
  size, each = config.data.batch_size, config.data.images_per_class
  shape = setup.abstract_batch(config, size)["image"].shape
  index = np.arange(size, dtype=np.int32)
  image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  return {"image": image, "label": index // each % classes, "index": index}
