"""`plan(config, target)`: a config's step and embedding function, compiled for a target."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxdml import models
from jaxdml.data.catalog import PUBLIC, DatasetNotPreparedError
from jaxdml.planning import program_cost, targets
from jaxdml.planning.targets import Chip, OutOfMemory, PlanError, Target
from jaxdml.training import networks, parallel, setup
from jaxdml.training import program as program_lib
from jaxdml.training.config import Config, replace

_STEPS = 1000  # of a run that is never run; schedules need some
_MOST_COMPILED = 8  # programs tried for the largest batch


@dataclasses.dataclass(frozen=True)
class Step:
  """One compiled program: what it takes on each chip, and what bounds its speed."""

  images: int  # a chip
  compile_seconds: float
  peak_bytes: float  # all below, and the program itself
  argument_bytes: float
  temp_bytes: float  # activations and whatever else lives within a step
  flops: float  # of products, a chip
  traffic_bytes: float  # to and from its memory
  collectives: dict[str, dict[str, float]]  # kind -> {"count", "bytes"}
  seconds: dict[str, float]  # the least time that arithmetic, memory and links take
  fits: bool

  @property
  def bound(self) -> str:
    """The limit that takes longest: arithmetic, memory or links."""
    return max(self.seconds, key=lambda name: self.seconds[name])

  @property
  def images_per_second(self) -> float:
    """The most that a chip can do, if all that overlaps does."""
    return self.images / self.seconds[self.bound]

  @property
  def share_of_peak(self) -> float:
    """The share of the chip's arithmetic that is used at that speed."""
    return self.seconds["arithmetic"] / self.seconds[self.bound]


@dataclasses.dataclass(frozen=True)
class Plan:
  """The figures that `jaxdml plan` prints."""

  target: str
  chips: int
  chip: Chip
  num_classes: int
  parameters: int
  parameter_bytes: float
  optimizer_bytes: float
  step: Step | None  # None where the compiler says that it does not fit at all
  too_large: str  # what it says then
  embed: Step | None
  largest: int | None  # images a chip that fit, by compiling; None: not sought, or none
  largest_because: str  # what ends it
  warnings: tuple[str, ...]

  def as_json(self) -> dict[str, Any]:
    """Returns the plan as plain values."""
    values = dataclasses.asdict(self)
    chip = self.chip._asdict()
    values["chip"] = {
      k: chip[k] for k in ("name", "tflops", "bandwidth", "memory", "usable", "link")
    }
    for name, step in (("step", self.step), ("embed", self.embed)):
      if step is not None:
        values[name] |= {
          "bound": step.bound, "images_per_second": step.images_per_second,
          "share_of_peak": step.share_of_peak,
        }  # fmt: skip
    return values


def plan(
  config: ConfigDict,
  target: Target | str,
  *,
  num_classes: int | None = None,
  images_per_chip: int | None = None,
  search: bool = False,
  say: Callable[[str], None] = lambda text: None,
) -> Plan:
  """Compiles a config's training step and embedding function for chips that need not be here.

  Args:
    config: of `training.default_config`, as for training.
    target: of `planning.target`, or its text.
    num_classes: training classes; by default those of the config's data set.
    images_per_chip: a step's; by default data.batch_size over the chips.
    search: whether to seek the largest batch that fits, by compiling a few.
    say: is told what is compiled, as it takes minutes.

  Raises:
    PlanError: the target is unknown or has no compiler here, or the compiler refuses the step.
    ConfigError: the config cannot run, or not on so many chips.
  """
  target = targets.target(target) if isinstance(target, str) else target
  chips = len(target.devices)
  config, classes = sized(config, chips, num_classes, images_per_chip)
  resolved = setup.resolve(config, chips, platform=target.chip.platform)
  made = _Made(resolved, target, classes, say)
  state = made.state
  images = resolved.data.batch_size // chips
  step, too_large = made.tried(images)
  if step is not None and not step.fits:
    too_large = f"{_gb(step.peak_bytes)} are more than {_gb(_capacity(target.chip))}"
  largest, because = made.largest(images, step) if search else (None, "")
  return Plan(
    target=target.name,
    chips=chips,
    chip=target.chip,
    num_classes=classes,
    parameters=models.count_parameters(state.params),
    parameter_bytes=_bytes(state.params) + _bytes(state.batch_stats),
    optimizer_bytes=_bytes(state.opt_state),
    step=step,
    too_large=too_large,
    embed=made.embed(),
    largest=largest,
    largest_because=because,
    warnings=tuple(_warnings(resolved, target.chip, images, step, classes)),
  )


class _Made:
  """The programs of a config for a target, each compiled when asked for."""

  def __init__(self, config: Config, target: Target, classes: int, say: Callable[[str], None]):
    self.config, self.target, self.classes, self.say = config, target, classes, say
    self.mesh = target.mesh(parallel.AXIS)
    self.tried = functools.cache(self._tried)

  def program(self, images: int) -> program_lib.Program:
    """The program of a config with so many images a chip."""
    batch = images * len(self.target.devices)
    return build(replace(self.config, {"data.batch_size": batch}), self.classes)

  @functools.cached_property
  def state(self) -> program_lib.TrainState:
    """Shapes of the state."""
    chips = len(self.target.devices)
    program = self.program(self.config.data.batch_size // chips)
    return jax.eval_shape(program.init, jax.random.key(0))

  def _tried(self, images: int) -> tuple[Step | None, str]:
    """The step of so many images a chip, or why it does not fit at all."""
    batch = setup.abstract_batch(self.config, images)
    program, state = self.program(images), self.state
    self.say(f"compiling the step of {images} images a chip for {self.target.name}")
    with setup.building():
      traced = parallel.trace_step_for(program.step, state, batch, self.mesh)
    try:
      return self._compiled(traced, images), ""
    except OutOfMemory as error:
      return None, str(error)

  def embed(self) -> Step | None:
    """The embedding function, in evaluation's batches; None if they do not fit."""
    chips, state = len(self.target.devices), self.state
    images = -(-self.config.eval.batch_size // chips)
    program = self.program(self.config.data.batch_size // chips)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    image = setup.abstract_batch(self.config, images, train=False)["image"]
    self.say(f"compiling the embedding of {images} images a chip for {self.target.name}")
    traced = parallel.trace_embed_for(program.embed, variables, image, self.mesh)
    try:
      return self._compiled(traced, images)
    except OutOfMemory:
      return None

  def _compiled(self, traced: jax.stages.Traced, images: int) -> Step:
    chip, chips = self.target.chip, len(self.target.devices)
    start = time.perf_counter()
    compiled = self.target.compile(traced.lower())
    seconds = time.perf_counter() - start
    cost = program_cost.cost_of(compiled, traced.jaxpr, chip.platform)
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    program = memory.generated_code_size_in_bytes
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + new + program
    operations, bandwidth, link = targets.per_second(chip)
    sent = sum(targets.transfers(n, kind, chips) for kind, (_, n) in cost.collectives.items())
    least = {
      "arithmetic": sum(chip.passes[kind] * n for kind, n in cost.flops.items()) / operations,
      "memory": cost.traffic / bandwidth,
      "links": sent / link,
    }
    return Step(
      images=images,
      compile_seconds=seconds,
      peak_bytes=peak,
      argument_bytes=memory.argument_size_in_bytes,
      temp_bytes=memory.temp_size_in_bytes,
      flops=sum(cost.flops.values()),
      traffic_bytes=cost.traffic,
      collectives={k: {"count": c, "bytes": n} for k, (c, n) in sorted(cost.collectives.items())},
      seconds=least,
      fits=peak <= _capacity(chip),
    )

  def fits(self, images: int) -> bool:
    """Compiles it and looks."""
    step, _ = self.tried(images)
    return step is not None and step.fits

  def largest(self, images: int, step: Step | None) -> tuple[int | None, str]:
    """The most images a chip that fit, to a twentieth, and what ends it."""
    chips, config = len(self.target.devices), self.config
    unit = math.lcm(8, config.data.images_per_class, config.encoder.chunk_size or 1)
    most = _most_images(config, self.classes) / chips
    good = images if step is not None and step.fits else 0
    bad = math.inf if good else images
    for _ in range(_MOST_COMPILED):
      if good + unit > most:
        return good, f"{self.classes} classes make no larger batch"
      if bad <= good + unit or bad <= 1.05 * good:
        break
      if bad == math.inf:
        guess = min(2 * good if step is None else self._predicted(good), most)
      else:
        guess = (good + bad) / 2 if good else bad / 2
      guess = max(int(guess) // unit * unit, unit)
      if guess <= good:
        guess = good + unit
      if guess >= bad:
        break
      good, bad = (guess, bad) if self.fits(guess) else (good, guess)
    if not good:
      return None, f"{bad} images a chip do not fit either"
    return good, f"{bad} do not fit" if bad < math.inf else "nothing larger was tried"

  def _predicted(self, good: int) -> float:
    """The images with which memory would end, by what one batch takes, and a little more."""
    step, _ = self.tried(good)
    assert step is not None
    each = step.temp_bytes / good
    room = _capacity(self.target.chip) - step.peak_bytes
    return min(good + 1.02 * room / each, 8 * good)


def sized(
  config: ConfigDict, chips: int, num_classes: int | None, images_per_chip: int | None
) -> tuple[ConfigDict, int]:
  """A copy of a config with so many images a chip, without weights; and its training classes."""
  config = ConfigDict(config)
  with config.unlocked():
    if config.data.image_size:  # The values of weights change no program, but this is theirs.
      config.encoder.init = ""
    if images_per_chip is not None:
      config.data.batch_size = images_per_chip * chips
  return config, _num_classes(config) if num_classes is None else num_classes


def build(config: Config, classes: int) -> program_lib.Program:
  """The program of a resolved config, whose run has some length."""
  with setup.building():
    return program_lib.build(
      config, num_classes=classes, total_steps=_STEPS, steps_per_epoch=_STEPS,
      axis_name=parallel.AXIS,
    )  # fmt: skip


def _num_classes(config: ConfigDict) -> int:
  """Training classes of a config's data set, prepared here or public."""
  try:
    return len(setup.load_splits(config).train.classes(config.data.label))
  except DatasetNotPreparedError as error:
    rule = PUBLIC.get(config.data.dataset.removeprefix("tfds:"))
    if rule is None or rule.classes is None:
      raise PlanError(
        f"--num_classes: needed, as the data set {config.data.dataset!r} is not prepared here; "
        "expected the number of training classes"
      ) from error
    return rule.classes


def _most_images(config: Config, classes: int) -> float:
  """The largest batch that a sampler makes of so many classes."""
  # Each class is in a batch once.
  once = config.data.sampler in ("pk", "npair")
  return classes * config.data.images_per_class if once else math.inf


def _capacity(chip: Chip) -> float:
  return chip.memory * chip.usable


def _bytes(tree: Any) -> float:
  return float(sum(x.size * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree)))


def _gb(size: float) -> str:
  return f"{size / 1e9:.3g} GB"


def _warnings(
  config: Config, chip: Chip, images: int, step: Step | None, classes: int
) -> list[str]:
  """Choices that cost money without need."""
  found, tpu = [], chip.platform == "tpu"
  most = _most_images(config, classes)
  if config.data.batch_size > most:
    found.append(
      f"{classes} classes make batches of at most {most:.0f} images by data.sampler="
      f"{config.data.sampler}; this plan has {config.data.batch_size}: fewer chips, or more "
      "data.images_per_class"
    )
  if config.encoder.dtype == "float32":
    found.append(
      "encoder.dtype=float32 moves twice the bytes of bfloat16: --config.encoder.dtype=bfloat16"
    )
  rows = 16 if config.encoder.dtype == "bfloat16" else 8
  each = config.encoder.chunk_size or images
  if tpu and each % rows:
    padded = -(-each // rows) * rows
    found.append(
      f"{each} images at a time are padded to {padded} in a TPU's memory: take a multiple of {rows}"
    )
  encoder = networks.build(config).encoder
  if isinstance(encoder, models.ViT):
    tokens = (config.data.image_size // encoder.patch) ** 2 + 1
    padded = -(-tokens // 128) * 128
    if tpu and padded > 1.2 * tokens:
      found.append(
        f"data.image_size={config.data.image_size} makes {tokens} tokens, which attention pads to "
        f"{padded} on a TPU"
      )
  if tpu and config.embedding.dim % 128:
    found.append(f"embedding.dim={config.embedding.dim} is padded to a multiple of 128 on a TPU")
  if step is not None and step.fits and step.peak_bytes < 0.4 * _capacity(chip):
    share = step.peak_bytes / _capacity(chip)
    found.append(f"{share:.0%} of the memory is used: a larger batch, or fewer chips, would fit")
  return found
