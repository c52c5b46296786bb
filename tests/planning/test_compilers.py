"""The GPU's and the TPU's compilers take what this package makes, on a machine without either.

They are here with `pip install '.[plan-tpu,plan-gpu]'` and JAX_PLATFORMS=cpu.
"""

import functools
import importlib
import importlib.util
import os

import jax
import numpy as np
import pytest

from jaxdml import losses, mining, planning
from jaxdml.evaluation import _ranks, _scores, retrieval
from tests.losses.test_sharding import loss_of, make

kmeans = importlib.import_module("jaxdml.evaluation.kmeans")  # Its function has that name, too.
INSTALLED = {
  "h100": importlib.util.find_spec("jax_cuda12_plugin"),
  "v5e:1x1": importlib.util.find_spec("libtpu"),
}
pytestmark = pytest.mark.skipif(
  os.environ.get("JAX_PLATFORMS") != "cpu" or not all(INSTALLED.values()),
  reason="needs the compilers of plan-tpu and plan-gpu, and JAX_PLATFORMS=cpu",
)
N, DIM = 64, 32
# A TPU's compiler takes seconds for a loss, a GPU's a tenth of that.
ON_TPU = ("multi_similarity", "triplet", "arcface")


def chain_of(name):
  options = {"k": 2, "dim": DIM, "max_positives": 3}
  entry = mining.MINERS[name]
  if not isinstance(entry, mining.Maker):
    return entry
  return entry.make(**{key: options[key] for key in entry.needed})


@functools.cache
def chip(name):
  return planning.target(name)


def compiled(target, fn, *arguments):
  """fn of the arguments' shapes, whole on one chip."""
  mesh = jax.sharding.Mesh(np.array(target.devices[:1]), ("chip",))
  here = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

  def shape(x):
    x = np.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here)

  return target.compile(jax.jit(fn).lower(*jax.tree.map(shape, arguments)))


def loss_compiles(target, name, mining_fn):
  learnt, data = make(name)
  rng = np.random.default_rng(0)
  x = rng.normal(size=(N, learnt["w"].shape[0])).astype(np.float32)
  data = {"x": x, "y": np.arange(N) // 4 % 5, "where": np.ones(N, bool)}
  fn = jax.value_and_grad(loss_of(name, mining_fn))
  assert compiled(target, fn, learnt, data).memory_analysis().temp_size_in_bytes >= 0


@pytest.mark.parametrize("name", losses.LOSSES)
def test_each_loss_for_a_gpu(name):
  loss_compiles(chip("h100"), name, mining.nearest_positive)


@pytest.mark.parametrize("name", mining.MINERS)
def test_each_miner_for_a_gpu(name):
  loss_compiles(chip("h100"), "triplet", chain_of(name))


@pytest.mark.parametrize("name", ON_TPU)
def test_losses_for_a_tpu(name):
  loss_compiles(chip("v5e:1x1"), name, mining.nearest_positive)


@pytest.mark.parametrize("name", INSTALLED)
def test_evaluation(name):
  target = chip(name)
  mesh = jax.sharding.Mesh(np.array(target.devices[:1]), (_scores.AXIS,))
  whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  of = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype, sharding=whole)
  queries, items, offset = of(np.float32, 64, DIM), of(np.float32, 2, 128, DIM), None
  excluded = of(np.int32, 64, 1)
  programs = [
    retrieval._nearest.lower(
      queries, excluded, items, of(np.float32, 2, 128), k=5, mesh=mesh, distance_fn=None
    ),
    _ranks._count_all.lower(
      (
        queries, of(np.int32, 64, 3), of(np.int32, 64, 3), excluded, excluded,
        of(np.int32, 1, 2), of(np.int32, 1),
      ),
      (items, offset, of(np.int32, 2, 128)),
      mesh=mesh, piece=64, zeros=0,
    ),
  ]  # fmt: skip
  axis = jax.sharding.Mesh(np.array(target.devices[:1]), (kmeans._AXIS,))
  points = jax.ShapeDtypeStruct((1, 1, 256, DIM), np.float32)
  squares = jax.ShapeDtypeStruct((1, 1, 256), np.float32)
  centers = jax.ShapeDtypeStruct((8, DIM), np.float32)
  programs.append(
    kmeans._assign_points.lower(points, squares, centers, mesh=axis, blocks=1, scatter=False)
  )
  for lowered in programs:
    assert target.compile(lowered).memory_analysis().temp_size_in_bytes >= 0


@pytest.mark.slow
@pytest.mark.parametrize("names", ["npair,hdml,cars", "margin,eps,cars,fair"])
def test_photo_configs_at_their_true_size(names):
  """For a GPU; a TPU's compiler takes two minutes each: benchmarks/compiled.py."""
  from configs import grid

  plan = planning.plan(grid.get_config(names), "h100", num_classes=98)
  assert plan.step.fits and plan.step.share_of_peak > 0.05
