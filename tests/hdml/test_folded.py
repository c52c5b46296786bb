"""The folded synthesis is the general one: value, components, gradients and running statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxdml import distances, hdml, losses, mining, models, refs
from jaxdml.hdml import _folded as folded
from jaxdml.models.layers import batch_statistics
from jaxdml.training import networks as networks_lib
from jaxdml.training import parallel
from tests.hdml import tiny

CLASSES = 5
QUICK = ("npair", "contrastive")  # of the cases below
NPAIR = {"loss": "npair", "options": {"l2_reg": 0.3}, "distance": distances.dot}
FOURS = {"layout": "all_pairs", "labels": (0, 0, 1, 0, 1, 2, 1, 0, 1, 3)}  # 2, 3: one example each
CASES = {
  "npair": NPAIR | {"layout": "npair", "labels": tiny.PAIRS, "config": {"block_size": 3}},
  "npair_slots": NPAIR
  | {"layout": "npair", "labels": tiny.PAIRS, "config": {"slots": 2, "detach": "distances"}},
  "eps_npair": NPAIR
  | FOURS
  | {"miner": "nearest_positive", "real": True, "both": True, "config": {"block_size": 4}},
  # two terms with denominators of their own, and a layer without BatchNorm
  "contrastive": FOURS
  | {
    "loss": "contrastive",
    "module": {"norm": "none", "unit_norm": True},
    "config": {"block_size": 4, "sum_soft": True, "detach": "anchors"},
  },
  "eps_triplet": FOURS
  | {
    "loss": "triplet",
    "miner": "nearest_positive",
    "both": True,
    "config": {"slots": 4, "block_size": 1, "joint_soft": True},
  },
  "triplet": {
    "loss": "triplet",
    "layout": "triplet",
    "labels": (0, 0, 1, 2, 2, 0, 3, 3, 4),
    "config": {"block_size": 2, "detach": "generated"},
  },
}


def build(name, *, fold, dtype, axis_name=None):
  """(params, y, labels) -> HDML's total and what comes with it; and its parameters."""
  case = CASES[name]
  embedding = models.Embedding(tiny.Z, dtype=dtype, axis_name=axis_name, **case.get("module", {}))
  generator = models.Generator(tiny.Y, hidden=tiny.HIDDEN, dtype=dtype, axis_name=axis_name)
  head = models.SoftmaxHead(CLASSES, dtype=dtype)
  inputs = {
    "embedding": (embedding, jnp.zeros((1, tiny.Y)), {"train": False}),
    "generator": (generator, jnp.zeros((1, tiny.Z)), {"train": False}),
    "head": (head, jnp.zeros((1, tiny.Y)), {}),
  }
  variables = {n: m.init(jax.random.key(3), x, **kw) for n, (m, x, kw) in inputs.items()}
  random = np.random.default_rng(1)
  # Random biases and scales: zeros and ones would hide what they multiply.
  perturbed = lambda a: jnp.asarray(a + 0.4 * random.normal(size=a.shape), dtype)
  params = {n: jax.tree.map(perturbed, v["params"]) for n, v in variables.items()}
  stats = {n: v["batch_stats"] for n, v in variables.items() if "batch_stats" in v}
  moving = stats.get("embedding") if case.get("both") else None

  def total(params, y, labels):
    given = batch_statistics(y, axis_name) if case.get("real") else None

    def embed(p, x):
      variables = {"params": p, "batch_stats": stats.get("embedding", {})}
      z, updates = embedding.apply(variables, x, train=True, mutable=["batch_stats"])
      if given is not None:
        known = {"bn": dict(zip(("mean", "var"), given, strict=True))}
        z = embedding.apply({"params": p, "batch_stats": known}, x, train=False)
      return z, updates["batch_stats"] if moving is not None else None

    def generate(p, z):
      variables = {"params": p, "batch_stats": stats["generator"]}
      x, updates = generator.apply(variables, z, train=True, mutable=["batch_stats"])
      return x, updates["batch_stats"]

    layers = lambda p: networks_lib.read_layers(
      embedding, generator, p, stats["generator"], moving, given
    )
    networks = hdml.Networks(
      embed, generate, lambda p, x: head.apply({"params": p}, x), layers if fold else None
    )
    variables = {"params": params["embedding"], "batch_stats": stats.get("embedding", {})}
    z = embedding.apply(variables, y, train=True)
    loss = losses.LOSSES[case["loss"]]
    loss_fn = functools.partial(loss.fn, **case.get("options", {}))
    miner = case.get("miner")
    window = lambda mean: hdml.Window(*(jnp.asarray(v, y.dtype) for v in (mean, 0)), jnp.int32(0))
    return hdml.objective(
      networks, params, y, z, labels, hdml.HdmlState(window(1.3), window(0.8), jnp.float32(1.0)),
      loss_fn=loss_fn,
      distance_fn=case.get("distance", distances.squared_euclidean),
      reduce_fn=case.get("reduce", loss.reduce_fn),
      additive=loss.additive,
      layout=refs.create(case["layout"]),
      config=hdml.HdmlConfig(**tiny.DIALS, **case["config"]),
      mining_fn=mining.create(miner) if miner else None,
      axis_name=axis_name,
    )  # fmt: skip

  return total, params


def run(name, y, *, fold, dtype):
  total, params = build(name, fold=fold, dtype=dtype)
  step = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
  labels = jnp.array(CASES[name]["labels"])
  return jax.jit(step, compiler_options=tiny.QUICK)(params, jnp.asarray(y, dtype), labels)


def features(name, seed=0):
  return np.random.default_rng(seed).normal(size=(len(CASES[name]["labels"]), tiny.Y))


@pytest.mark.parametrize(
  "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_folded_is_the_general_synthesis(name, monkeypatch):
  folds = []
  parts = folded.synthetic_parts
  monkeypatch.setattr(
    folded, "synthetic_parts", lambda *a, **kw: folds.append(name) or parts(*a, **kw)
  )
  with jax.enable_x64(True):
    want = run(name, features(name), fold=False, dtype=jnp.float64)
    assert folds == []
    got = run(name, features(name), fold=True, dtype=jnp.float64)
  assert folds == [name]
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    # An array's largest entry sets the scale: sums may cancel.
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11 * max(1.0, np.max(np.abs(b))))
  metrics, (of_params, of_y) = want[0][1][2], want[1]
  assert 0.1 < float(metrics["hdml/lambda"]) < 0.9
  assert 0.1 < float(metrics["hdml/trust_in_real"]) < 0.9
  for gradient in (of_y, *of_params.values()):
    assert max(np.max(np.abs(g)) for g in jax.tree.leaves(gradient)) > 1e-3


def test_networks_that_do_not_fold():
  embedding, generator = models.Embedding(3), models.Generator(5)
  assert networks_lib.foldable(embedding, generator)
  for changes in ({"norm": "layer"}, {"frozen_bn": True}, {"dtype": jnp.bfloat16}):
    assert not networks_lib.foldable(models.Embedding(3, **changes), generator), changes
  assert not networks_lib.foldable(embedding, models.Generator(5, dtype=jnp.bfloat16))


def test_losses_that_are_sums_over_anchors():
  """Two losses read the batch twice; all others are sums, whatever hyperparameters they have."""
  assert sorted(name for name, loss in losses.LOSSES.items() if not loss.additive) == [
    "histogram",
    "lifted_structure",
  ]


@pytest.mark.slow
@pytest.mark.parametrize("y", ["equal", "two_points"])
def test_degenerate_batches_are_finite(y):
  """All features equal; or two distinct ones, so that d- = d+ = 0 and variances are nothing."""
  batch = np.zeros_like(features("npair"))
  if y == "two_points":
    batch[::2] = 1.0
  result = run("npair", batch, fold=True, dtype=jnp.float32)
  assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pmap", "shard_map"])
@pytest.mark.parametrize("name", ["eps_npair", "contrastive"])
def test_eight_devices_are_one(name, way):
  labels = np.tile(CASES[name]["labels"], 2)[:16].astype(np.int32)
  y = np.random.default_rng(0).normal(size=(16, tiny.Y)).astype(np.float32)

  def step(axis_name):
    total, params = build(name, fold=True, dtype=jnp.float32, axis_name=axis_name)

    def of_batch(params, batch):
      grad_fn = jax.value_and_grad(total, has_aux=True)
      value, gradients = grad_fn(params, batch["y"], batch["label"])
      # With the check of `jax.shard_map` they are summed already.
      summed = axis_name is None or way == "shard_map"
      return value, gradients if summed else jax.lax.psum(gradients, axis_name)

    return of_batch, params

  of_batch, params = step(None)
  batch = {"y": y, "label": labels}
  one = jax.jit(of_batch, compiler_options=tiny.QUICK)(params, batch)
  of_batch, _ = step(parallel.AXIS)
  if way == "pmap":
    mapped = jax.pmap(of_batch, axis_name=parallel.AXIS)
    eight = parallel.unreplicate(mapped(parallel.replicate(params), parallel.split(batch)))
  else:
    mesh = jax.make_mesh((8,), (parallel.AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    specs = PartitionSpec(), PartitionSpec(parallel.AXIS)
    mapped = jax.shard_map(of_batch, mesh=mesh, in_specs=specs, out_specs=PartitionSpec())
    eight = jax.device_get(jax.jit(mapped)(params, batch))
  for a, b in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=5e-5 * max(1.0, float(np.max(np.abs(b)))))


@pytest.mark.slow
def test_no_array_of_all_tuples(monkeypatch):
  """Memory of N-pair in blocks: n anchors' n partners are never there at once, logging included."""
  n, width = 128, 64
  for name in ("Z", "Y", "HIDDEN"):
    monkeypatch.setattr(tiny, name, width)
  monkeypatch.setattr("tests.hdml.test_folded.CLASSES", n)
  total, params = build("npair", fold=True, dtype=jnp.float32)
  step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
  y, labels = np.zeros((2 * n, width), np.float32), np.repeat(np.arange(n), 2)
  temporary = step.lower(params, y, labels).compile().memory_analysis().temp_size_in_bytes
  assert temporary < n * n * width * 4
