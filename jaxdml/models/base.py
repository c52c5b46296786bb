"""The contract of an encoder, the registry of those with a name, and the weights that fit them."""

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdml import _lazy
from jaxdml.models.layers import BatchNorm, Dtype
from jaxdml.types import Array

State = Mapping[str, np.ndarray]
"""A file's arrays by name, in PyTorch's layouts: kernels [out, in, height, width]."""


class Encoder(nn.Module):
  """Base of every encoder: images [n, h, w, c] float32 to features [n, feature_dim] float32.

  Training, fine-tuning, published weights and export know an encoder by these members alone. A
  family adds its own fields, `feature_dim`, `stages`, `stage_of` and `__call__(images, train)`,
  which begins with `self.check_images(images)`. It is called as

      features, updates = encoder.apply(variables, images, train=True, mutable=["batch_stats"])

  and keeps parameters, statistics and features in float32 whatever `dtype` it computes in.

  Attributes:
    axis_name: mapped axis over which BatchNorm's statistics are synchronised. Like the next three
      it changes nothing in an encoder without BatchNorm.
    frozen_bn: BatchNorm uses its running statistics in training too, and never moves them.
    frozen_bn_affine: with it, its scale and bias get no gradient either.
    momentum: share of the old running statistics that an update keeps.
    dtype: of the computation.
  """

  axis_name: Any = None
  frozen_bn: bool = False
  frozen_bn_affine: bool = False
  momentum: float = 0.9
  dtype: Dtype = jnp.float32

  @property
  def feature_dim(self) -> int:
    """Size of the features."""
    raise NotImplementedError(f"{type(self).__name__}.feature_dim")

  @property
  def stages(self) -> tuple[str, ...]:
    """Groups of parameters from input to output, for learning rates and freezing.

    A stage called "pool" is the pooling's own (GeM's exponent): published weights lack it.
    """
    raise NotImplementedError(f"{type(self).__name__}.stages")

  def stage_of(self, path: Sequence[str]) -> str:
    """Returns the stage of the parameter or statistic at `path` in the encoder's tree."""
    raise NotImplementedError(f"{type(self).__name__}.stage_of")

  @property
  def sides(self) -> tuple[int, int]:
    """Smallest side of an image in pixels, and the number that sides are multiples of."""
    return 32, 1

  def __call__(self, images: Array, train: bool) -> Array:
    """Returns features [n, feature_dim] float32 of images [n, h, w, c]."""
    raise NotImplementedError(f"{type(self).__name__}.__call__")

  def make_norm(self, epsilon: float = 1e-5) -> Callable[..., BatchNorm]:
    """Returns a maker of BatchNorms with the encoder's fields; it takes a name."""
    return partial(
      BatchNorm, self.axis_name, self.frozen_bn, self.frozen_bn_affine, self.momentum, epsilon,
      self.dtype,
    )  # fmt: skip

  def check_images(self, images: Array) -> None:
    """Raises ValueError or TypeError unless images are floats [n, h, w, c] of fitting `sides`."""
    if images.ndim != 4:
      raise ValueError(
        f"images: expected [n, height, width, channels], got shape {images.shape}; "
        "add the batch or channel axis"
      )
    if not jnp.issubdtype(images.dtype, jnp.floating):
      raise TypeError(
        f"images: expected floats, got {images.dtype}; convert and scale the pixels first, "
        "for instance images.astype('float32') / 255"
      )
    smallest, multiple = self.sides
    if any(side < smallest or side % multiple for side in images.shape[1:3]):
      raise ValueError(
        f"images: expected sides of at least {smallest} pixels that are multiples of {multiple}, "
        f"got {images.shape[1]}x{images.shape[2]}; resize or pad the images"
      )


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """Preparation of an image for a published model's evaluation.

  The network sees (pixel / 255 - mean) / std of 8-bit pixels, channels in `channel_order`; std is
  1 / 255 for models that took 8-bit values without scaling (Caffe's).
  """

  mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # one a channel, in the network's order
  std: tuple[float, ...] = (0.229, 0.224, 0.225)  # likewise, where pixels are 0..1
  channel_order: str = "rgb"  # or "bgr"
  image_size: int = 224  # side of the input
  crop_pct: float = 0.875  # share of the resized image's shorter side that the centre crop keeps
  interpolation: str = "bilinear"  # or "bicubic", of the resize

  def __str__(self) -> str:
    """One line for people."""
    mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
    return (
      f"{self.channel_order} mean ({mean}) std ({std}) of pixels 0..1, "
      f"{self.image_size} px, {self.interpolation}, crop {self.crop_pct:.4g}"
    )


def caffe(mean: tuple[float, float, float]) -> Preprocessing:
  """Returns Caffe's preprocessing: blue, green, red in 0..255 minus a mean, nothing else."""
  scaled = tuple(value / 255 for value in mean)
  return Preprocessing(mean=scaled, std=(1 / 255,) * 3, channel_order="bgr")


@dataclasses.dataclass(frozen=True)
class Published:
  """Weights that others published and that fit an encoder."""

  file: str  # which file, and whose; for people
  # Path of a leaf, ("params", "layer1_0", "conv1", "kernel") -> its name in the file.
  name_of: Callable[[tuple[str, ...]], str]
  classifier: tuple[str, str]  # weight and bias that make logits of features; a file may lack both
  preprocessing: Preprocessing = Preprocessing()  # that the usual file was trained on
  ignore: str = r".*\.num_batches_tracked"  # whole names in the file that the encoder does without
  # The file's arrays -> the same with one spelling and one shape for each.
  tidied: Callable[[State], State] | None = None
  # A cheap look at tidied arrays, False where they cannot be of this encoder; None: no such look.
  fits: Callable[[State], bool] | None = None
  # The file in an installed Python package; else it raises ImportError with the pip command.
  bundled: Callable[[], Path] | None = None
  # The usual file's repository on the Hugging Face hub, "ORG/NAME": timm's where timm has one.
  hub: str = ""


def torch_leaf(leaf: str) -> str:
  """Returns PyTorch's name of a leaf of a convolution, a dense layer or a normalisation.

  >>> [torch_leaf(leaf) for leaf in ("kernel", "bias", "scale", "var")]
  ['weight', 'bias', 'weight', 'running_var']
  """
  return {
    "kernel": "weight", "bias": "bias", "scale": "weight", "mean": "running_mean",
    "var": "running_var",
  }[leaf]  # fmt: skip


class Entry(NamedTuple):
  """A registered encoder: an `Encoder` class, or a partial of one, and the weights that fit it."""

  make: Callable[..., Encoder]
  published: Published | None = None


Make = TypeVar("Make", bound=Callable[..., Encoder])

_CHOICES = {"pooling", "interpolation"}
"""Fields that a registered encoder sets to what its authors took, and a user to something else."""

ENCODERS: dict[str, Entry] = {}
"""Name -> encoder, of every family in this package; `register` fills it."""


def register(name: str, make: Make, published: Published | None = None) -> Make:
  """Gives an encoder a name, for `create` and `config.encoder.name`; returns `make`.

  Args:
    name: must be free, else ValueError.
    make: an `Encoder` class, or a partial of one.
    published: weights that fit it, for `jaxdml convert`.
  """
  if name in ENCODERS:
    raise ValueError(f"name: expected one that is free; {name!r} is registered already")
  ENCODERS[name] = Entry(make, published)
  return make


def published_encoders() -> dict[str, Published]:
  """Returns the registered encoders that published weights fit, by name."""
  return {name: entry.published for name, entry in ENCODERS.items() if entry.published}


def create(name: str, **options: Any) -> Encoder:
  """Returns the encoder called `name`.

  Args:
    name: a registered one, or "package.module:factory" of one's own, an `Encoder` class or a
      function that returns an encoder. The module must be importable: installed, on PYTHONPATH, or
      in the working directory of `python -m jaxdml`.
    **options: the encoder's fields, or the factory's arguments.

  Raises:
    ValueError: unknown name or option; the message lists the valid ones.
    TypeError: the factory returns something else than an `Encoder`.

  >>> create("resnet50").feature_dim
  2048
  """
  make = _factory(name) if ":" in name else _registered(name)
  module, fixed = (make.func, set(make.keywords)) if isinstance(make, partial) else (make, set())
  fixed -= _CHOICES
  if isinstance(module, type) and issubclass(module, Encoder):
    fields = {field.name for field in dataclasses.fields(module)}
    valid = sorted(fields - {"parent", "name"} - fixed)
    for key in options:
      if key not in valid:
        raise ValueError(
          f"options: {name} takes {', '.join(valid)}; got {key!r}{_nearest(key, valid)}"
        )
  encoder = make(**options)
  if not isinstance(encoder, Encoder):
    raise TypeError(
      f"name: {name} returned {type(encoder).__name__}; expected a jaxdml.models.Encoder, as "
      "models.from_functions(init, apply, feature_dim) makes of other networks"
    )
  return encoder


def _registered(name: str) -> Callable[..., Encoder]:
  if name not in ENCODERS:
    raise ValueError(
      f"name: expected one of {', '.join(sorted(ENCODERS))}, or package.module:factory of your "
      f"own; got {name!r}{_nearest(name, ENCODERS)}"
    )
  return ENCODERS[name].make


def _factory(name: str) -> Callable[..., Encoder]:
  """The object that "package.module:factory" names."""
  try:
    factory = _lazy.imported(name)
  except ValueError as error:
    raise ValueError(f"name: {error}") from error
  if not callable(factory):
    raise ValueError(f"name: expected a function or class; {name} is {factory!r}")
  return factory


def _nearest(word: str, valid: Iterable[str]) -> str:
  close = difflib.get_close_matches(word, list(valid), n=1)
  return f"; did you mean {close[0]!r}?" if close else ""
