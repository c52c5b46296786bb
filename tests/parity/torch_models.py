"""Encoders in PyTorch with nothing left at 0 or 1, and their comparison with ours.

PyPI's torchvision is built for another PyTorch than the CPU one: its compiled operators do not
load, but its models need none of them once the operators' schemas exist.
"""

import functools
import warnings

import jax
import numpy as np
import pytest

pytest.importorskip("torch", reason="needs pip install '.[parity]'")

import torch

from jaxdml import models, pretrained
from jaxdml.pretrained import conversion

TOLERANCE = 1e-4
_SCHEMAS = (
  "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
  "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept = []


@functools.cache
def _define_operators():
  library = torch.library.Library("torchvision", "FRAGMENT")
  for schema in _SCHEMAS:
    library.define(schema)
  _kept.append(library)  # operators go when their library does


def peer(name):
  """The module `name` of torchvision, timm or pretrainedmodels; skips where it is not installed."""
  if not hasattr(torch.ops.torchvision, "nms"):
    _define_operators()
  with warnings.catch_warnings():
    # Their own, while they compile.
    warnings.simplefilter("ignore")
    return pytest.importorskip(name, reason="needs pip install '.[parity]'", exc_type=ImportError)


def randomize(module, seed=0):
  """Gives every parameter and statistic of a PyTorch module a value of its own; evaluation mode."""
  rng = np.random.default_rng(seed)
  scale = {"running_mean": (0, 0.3), "bias": (0, 0.2)}
  with torch.no_grad():
    for name, tensor in module.state_dict().items():
      leaf = name.rpartition(".")[2]
      shape = tuple(tensor.shape)
      if leaf == "num_batches_tracked":
        continue
      if leaf in scale:
        value = rng.normal(*scale[leaf], shape)
      elif tensor.ndim == 1:
        value = rng.uniform(0.5, 1.5, shape)
      else:
        value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
      tensor.copy_(torch.from_numpy(value))
  return module.eval()


def state_of(module):
  """A module's arrays by name."""
  return {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def renamed(arch, state):
  """A file's arrays as the weights of `arch`."""
  return conversion.rename(models.create(arch), models.ENCODERS[arch].published, state)


def pixels(size, n=2, seed=1):
  """Images [n, size, size, 3] in the range of normalised ones, and the same for PyTorch."""
  images = np.random.default_rng(seed).normal(size=(n, size, size, 3)).astype(np.float32)
  return images, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def difference(ours, theirs):
  """Largest absolute difference relative to the largest value."""
  theirs = np.asarray(theirs)
  assert ours.shape == theirs.shape
  return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


@functools.lru_cache
def _applied(arch):
  encoder = models.create(arch)
  apply = functools.partial(encoder.apply, mutable=["batch_stats"])
  return jax.jit(apply, static_argnames="train")


def check_evaluation(arch, module, features_of, logits_of, size, arrays_of=state_of, scale=1):
  """Features and logits with running statistics; returns both differences."""
  weights = renamed(arch, arrays_of(module))
  images, tensor = (scale * x for x in pixels(size))
  variables = {name: weights[name] for name in ("params", "batch_stats")}
  features, _ = _applied(arch)(variables, images, train=False)
  with torch.no_grad():
    theirs = features_of(module, tensor)
    found = (
      difference(features, theirs),
      difference(pretrained.logits(features, weights["classifier"]), logits_of(module, theirs)),
    )
  print(f"{arch}, {size} px: features {found[0]:.1e}, logits {found[1]:.1e}")
  assert max(found) <= TOLERANCE, found
  return found


def check_training(arch, module, features_of, size, n=8, momentum=0.1):
  """Features by the batch's statistics, and how they move the running ones; both differences.

  PyTorch moves the running variance towards the unbiased one, we (and Flax) towards the biased one
  that normalised the batch: that factor is taken out here.
  """
  before = renamed(arch, state_of(module))
  counts = {}
  hooks = [
    layer.register_forward_hook(
      lambda layer, x, _, name=name: counts.update({name: x[0].numel() // layer.num_features})
    )
    for name, layer in module.named_modules()
    if isinstance(layer, torch.nn.BatchNorm2d)
  ]
  images, tensor = pixels(size, n)
  old = state_of(module)
  module.train()
  with torch.no_grad():
    theirs = features_of(module, tensor)
  module.eval()
  for hook in hooks:
    hook.remove()
  new = state_of(module)
  for name, count in counts.items():
    key = f"{name}.running_var"
    kept = (1 - momentum) * old[key]
    new[key] = kept + (new[key] - kept) * (count - 1) / count
  variables = {k: before[k] for k in ("params", "batch_stats")}
  features, updates = _applied(arch)(variables, images, train=True)
  stats = updates["batch_stats"]
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), stats, before["batch_stats"])
  assert min(jax.tree.leaves(moved)) > momentum / 100
  wrong = jax.tree.map(difference, stats, renamed(arch, new)["batch_stats"])
  found = difference(features, theirs), max(jax.tree.leaves(wrong))
  print(f"{arch}, {size} px, training: features {found[0]:.1e}, statistics {found[1]:.1e}")
  assert max(found) <= TOLERANCE, found
  return found
