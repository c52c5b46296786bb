"""One loss of one library at one batch size, in this process; prints a line of JSON.

  python benchmarks/_losses_measure.py jaxdml|peer|matmul NAME BATCH

`matmul` measures what the machine can do by a product of BATCH x BATCH, whatever the name.
`benchmarks/losses.py` calls it; the libraries are imported only where they are measured.
"""

from __future__ import annotations

import json
import resource
import sys
import time

DIM, PER_CLASS = 128, 4
EPS_SEMIHARD = "triplet, EPS + semihard"
# Our name -> the peer's class and its arguments where a default differs from ours.
PEERS = {
  "angular": ("AngularLoss", {}),
  "circle": ("CircleLoss", {}),
  "contrastive": ("ContrastiveLoss", {}),
  "fast_ap": ("FastAPLoss", {}),
  "generalized_lifted_structure": ("GeneralizedLiftedStructureLoss", {}),
  "histogram": ("HistogramLoss", {"n_bins": 100}),
  "lifted_structure": ("LiftedStructureLoss", {}),
  "margin": ("MarginLoss", {}),
  "multi_similarity": ("MultiSimilarityLoss", {}),
  "nca": ("NCALoss", {}),
  "npair": ("NPairsLoss", {}),
  "ntxent": ("NTXentLoss", {}),
  "ranked_list": ("RankedListLoss", {"margin": 0.4, "Tn": 10}),
  "signal_to_noise_contrastive": ("SignalToNoiseRatioContrastiveLoss", {}),
  "smooth_ap": ("SmoothAPLoss", {}),
  "soft_margin_triplet": ("TripletMarginLoss", {"margin": 0, "smooth_loss": True}),
  "supcon": ("SupConLoss", {}),
  "triplet": ("TripletMarginLoss", {"margin": 0.2}),
  EPS_SEMIHARD: ("TripletMarginLoss", {"margin": 0.2}),
  "tuplet_margin": ("TupletMarginLoss", {}),
  "arcface": ("ArcFaceLoss", "classes"),
  "cosface": ("CosFaceLoss", "classes"),
  "normalized_softmax": ("NormalizedSoftmaxLoss", "classes"),
  "proxy_anchor": ("ProxyAnchorLoss", "classes"),
  "proxy_nca": ("ProxyNCALoss", "classes"),
  "proxy_nca_pp": ("ProxyNCALoss", "classes"),
  "soft_triple": ("SoftTripleLoss", "classes"),
  "sphereface": ("SphereFaceLoss", "classes"),
  "sub_center_arcface": ("SubCenterArcFaceLoss", "classes"),
}
NAMES = tuple(PEERS)
LARGE = (
  "contrastive",
  "margin",
  "multi_similarity",
  "ntxent",
  "supcon",
  "circle",
  EPS_SEMIHARD,
)


# Class vectors that an embedding is compared with for each class, of the losses that have any.
VECTORS = {
  "arcface": 1, "cosface": 1, "normalized_softmax": 1, "proxy_anchor": 1, "proxy_nca": 1,
  "proxy_nca_pp": 1, "soft_triple": 10, "sphereface": 1, "sub_center_arcface": 3,
}  # fmt: skip


def operations(name: str, batch: int) -> int:
  """Of the three matrix products alone: similarities, and their gradient for either side."""
  rows = batch // PER_CLASS if name == "npair" else batch
  columns = batch // PER_CLASS * VECTORS[name] if name in VECTORS else rows
  return 6 * rows * columns * DIM


def peak_mb() -> float:
  """Peak resident set of this process so far, in MB (10^6 bytes)."""
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def fastest(fn, budget: float = 0.4) -> float:
  """Seconds of the fastest call after a first one: as many as fit the budget, at most 200.

  At least 3; 2 of calls that take more than a second, 1 of those that take more than 10.
  """
  start = time.perf_counter()
  fn()
  fn_seconds = time.perf_counter() - start
  if fn_seconds < 0.5:  # the first call was mostly warm-up
    start = time.perf_counter()
    fn()
    fn_seconds = time.perf_counter() - start
  least = 3 if fn_seconds < 1 else 2 if fn_seconds < 10 else 1
  times = []
  for _ in range(min(max(int(budget / max(fn_seconds, 1e-6)), least), 200)):
    start = time.perf_counter()
    fn()
    times.append(time.perf_counter() - start)
  return min(times)


def of_jaxdml(name: str, batch: int) -> dict:
  """Our loss, jitted, with the gradients of the embeddings and of its parameters."""
  import jax
  import jax.numpy as jnp

  from jaxdml import losses, mining
  from jaxdml.types import Refs

  x = jax.random.normal(jax.random.key(0), (batch, DIM))
  y = jnp.arange(batch, dtype=jnp.int32) // PER_CLASS
  mine = None
  if name == EPS_SEMIHARD:
    name, mine = "triplet", mining.create("nearest_positive+semihard_negative")
  params = losses.init(name, jax.random.key(1), batch // PER_CLASS, DIM)
  options = {"params": params} if params else {}

  def loss(x, options, y):
    if name == "npair":  # the peer takes one pair of images a class
      a, p = x[::PER_CLASS], x[1::PER_CLASS]
      return losses.npair_loss(a, y[::PER_CLASS], refs=Refs(p, y[1::PER_CLASS]))
    return losses.LOSSES[name].fn(x, y, mining_fn=mine, **options)

  step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  start = time.perf_counter()
  step.lower(x, options, y).compile()
  compile_seconds = time.perf_counter() - start
  seconds = fastest(lambda: jax.block_until_ready(step(x, options, y)))
  step(2.0 * x, options, y[::-1])
  if step._cache_size() != 1:
    raise SystemExit(f"{name} compiled again for other values")
  device = jax.devices()[0]
  peak = (device.memory_stats() or {}).get("peak_bytes_in_use")  # None: a CPU
  figures = {
    "seconds": seconds,
    "peak_mb": peak_mb() if peak is None else peak / 1e6,
    "compile_seconds": compile_seconds,
    "device": device.platform,
  }
  return figures | (
    matmul_rate() if batch >= 8192 else {}
  )  # measured last: its own memory must not count


def matmul_rate(_: str = "", side: int = 4096) -> dict:
  """Returns what the machine can do: the rate of a large product."""
  import jax

  x = jax.random.normal(jax.random.key(1), (side, side))
  product = jax.jit(lambda a: jax.numpy.matmul(a, a, precision="highest"))  # no TF32 on a GPU
  rate = 2 * side**3 / fastest(lambda: jax.block_until_ready(product(x)), budget=3.0) / 1e9
  return {"matmul_gflops": rate}


def of_peer(name: str, batch: int) -> dict:
  """The loss of pytorch-metric-learning, with the same gradients; on a GPU if torch has one."""
  import warnings

  import torch
  from pytorch_metric_learning import losses, miners

  warnings.filterwarnings("ignore")
  torch.manual_seed(0)
  cuda = torch.cuda.is_available()
  device = "cuda" if cuda else "cpu"
  x = torch.randn(batch, DIM, device=device, requires_grad=True)
  y = torch.arange(batch, device=device) // PER_CLASS
  cls, options = PEERS[name]
  if options == "classes":
    options = {"num_classes": batch // PER_CLASS, "embedding_size": DIM}
  loss = getattr(losses, cls)(**options).to(device)
  mine = None
  if name == EPS_SEMIHARD:
    mine = miners.BatchEasyHardMiner(pos_strategy="easy", neg_strategy="semihard")

  def step():
    x.grad = None
    loss.zero_grad()
    (loss(x, y, mine(x, y)) if mine else loss(x, y)).backward()
    if cuda:
      torch.cuda.synchronize()

  seconds = fastest(step)
  peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else peak_mb()
  return {"seconds": seconds, "peak_mb": peak, "device": "gpu" if cuda else "cpu"}


if __name__ == "__main__":
  _, library, name, batch = sys.argv
  measure = {"jaxdml": of_jaxdml, "peer": of_peer, "matmul": matmul_rate}[library]
  print(json.dumps(measure(name, int(batch))))
