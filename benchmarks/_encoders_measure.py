"""One encoder of one library, in this process; prints a line of JSON.

  python benchmarks/_encoders_measure.py jaxdml forward resnet50 128 224 bfloat16
  python benchmarks/_encoders_measure.py platform

Libraries: jaxdml; eager and compiled are PyTorch. Passes: forward (evaluation mode); backward
(training mode, forward and backward of a margin loss over the batch); train (jaxdml alone: the
whole training step of a config, from uint8 images to new parameters). `benchmarks/encoders.py`
calls it; the libraries are imported only where they are measured.
"""

from __future__ import annotations

import functools
import json
import sys
import time
import warnings

from _losses_measure import fastest, peak_mb

PER_CLASS, SECONDS = 4, 3.0
# Our name -> (the peer's library, its name, its options); None: no peer has it.
PEERS = {
  "resnet18": ("torchvision", "resnet18", {}),
  "resnet50": ("torchvision", "resnet50", {}),
  "googlenet": None,
  "googlenet_bn": ("torchvision", "googlenet", {"aux_logits": False, "init_weights": False}),
  "bn_inception": ("pretrainedmodels", "bninception", {"pretrained": None}),
  "efficientnet_lite0": ("timm", "tf_efficientnet_lite0", {}),
  "vit_s16": ("timm", "vit_small_patch16_224", {"img_size": None}),
  "vit_b16": ("timm", "vit_base_patch16_224", {"img_size": None}),
  "dinov2_s14": ("timm", "vit_small_patch14_dinov2", {"img_size": None}),
}
NAMES = tuple(PEERS)


def platform() -> dict:
  """Says what JAX runs on, and whether PyTorch sees a GPU."""
  import jax

  try:
    import torch
  except ImportError:
    return {"jax": jax.default_backend(), "torch": "none"}
  return {"jax": jax.default_backend(), "torch": "gpu" if torch.cuda.is_available() else "cpu"}


def of_jaxdml(name: str, kind: str, batch: int, size: int, dtype: str) -> dict:
  """Our encoder, jitted."""
  import jax
  import jax.numpy as jnp
  import numpy as np

  from jaxdml import losses, models

  if kind == "train":
    return of_training_step(name, batch, size, dtype)
  encoder = models.create(name, dtype=jnp.dtype(dtype))
  rng = np.random.default_rng(0)
  images = jnp.asarray(rng.normal(size=(batch, size, size, 3)), jnp.float32)
  labels = jnp.arange(batch, dtype=jnp.int32) // PER_CLASS
  init = jax.jit(functools.partial(encoder.init, train=False))
  variables = jax.block_until_ready(init(jax.random.key(0), images[:1]))

  def forward(variables, images):
    return encoder.apply(variables, images, train=False)

  def backward(variables, images):
    def loss(params):
      state = {**variables, "params": params}
      features, updates = encoder.apply(state, images, train=True, mutable=["batch_stats"])
      features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
      return losses.margin_loss(features, labels), updates

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])

  start = time.perf_counter()
  run = jax.jit({"forward": forward, "backward": backward}[kind])
  run = run.lower(variables, images).compile()
  compile_seconds = time.perf_counter() - start
  seconds = fastest(lambda: jax.block_until_ready(run(variables, images)), SECONDS)
  return {"seconds": seconds, "peak_mb": _jax_peak(), "compile_seconds": compile_seconds}


def of_training_step(name: str, batch: int, size: int, dtype: str) -> dict:
  """The step that `python -m jaxdml.main` runs, on one device, with images that are there."""
  import jax
  import numpy as np

  from jaxdml import training
  from jaxdml.training import parallel
  from jaxdml.training import program as program_lib

  config = training.default_config()
  config.data.preprocess, config.data.channels, config.data.image_size = "standard", 3, size
  config.encoder.name, config.encoder.dtype = name, dtype
  config.loss.name = "margin"
  program = program_lib.build(
    training.resolve(config),
    num_classes=batch,
    total_steps=1000,
    steps_per_epoch=100,
    axis_name=parallel.AXIS,
  )
  state = parallel.replicate(jax.jit(program.init)(jax.random.key(0)))
  rng = np.random.default_rng(0)
  host = {
    "image": rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8),
    "label": np.arange(batch, dtype=np.int32) // PER_CLASS,
    "index": np.arange(batch, dtype=np.int32),
    "id": np.arange(batch, dtype=np.int32),
  }
  (images,) = parallel.prefetch(iter([host]))
  step = parallel.compile_step(program.step)
  start = time.perf_counter()
  state, _ = jax.block_until_ready(step(state, images))
  compile_seconds = time.perf_counter() - start

  def run():
    nonlocal state
    state, _ = jax.block_until_ready(step(state, images))

  seconds = fastest(run, SECONDS)
  return {"seconds": seconds, "peak_mb": _jax_peak(), "compile_seconds": compile_seconds}


def _jax_peak() -> float:
  """Peak memory of the accelerator, or of this process where there is none."""
  import jax

  stats = None if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats()
  return stats["peak_bytes_in_use"] / 1e6 if stats else peak_mb()


def of_torch(library: str, name: str, kind: str, batch: int, size: int, dtype: str) -> dict:
  """The same network in PyTorch: channels last, autocast for bfloat16."""
  import torch

  warnings.filterwarnings("ignore")
  torch.manual_seed(0)
  gpu = torch.cuda.is_available()
  device = torch.device("cuda" if gpu else "cpu")
  torch.backends.cudnn.benchmark = True
  torch.set_float32_matmul_precision("high")
  module = peer(name, size).to(device, memory_format=torch.channels_last)
  module.train(kind == "backward")
  images = torch.randn(batch, 3, size, size, device=device)
  images = images.to(memory_format=torch.channels_last)
  labels = torch.arange(batch, device=device) // PER_CLASS
  same = labels[:, None] == labels[None]
  positive = same & ~torch.eye(batch, dtype=torch.bool, device=device)
  amp = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")

  def encode(images):
    with amp:
      features = module(images)
    return features.float()

  def loss(images):
    x = torch.nn.functional.normalize(encode(images), dim=-1)
    distances = (2 - 2 * x @ x.T).clamp_min(1e-8).sqrt()
    terms = torch.where(same, distances - 1.2, 1.2 - distances).add(0.2).relu()
    terms = torch.where(positive | ~same, terms, 0.0)
    return terms.sum() / (terms > 0).sum().clamp_min(1)

  if library == "compiled":
    encode, loss = torch.compile(encode), torch.compile(loss)

  def run():
    if kind == "forward":
      with torch.no_grad():
        encode(images)
    else:
      module.zero_grad(set_to_none=True)
      loss(images).backward()
    if gpu:
      torch.cuda.synchronize()

  start = time.perf_counter()
  run()
  compile_seconds = time.perf_counter() - start
  seconds = fastest(run, SECONDS)
  peak = torch.cuda.max_memory_allocated() / 1e6 if gpu else peak_mb()
  return {"seconds": seconds, "peak_mb": peak, "compile_seconds": compile_seconds}


def peer(name: str, size: int):
  """The PyTorch module that makes the features of encoder `name`."""
  import importlib

  import torch

  # A torchvision that was built for another PyTorch lacks its operators; the models need only
  # their schemas. Where they are there, defining them again is an error.
  try:
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
      schemas.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    importlib.import_module("torchvision")
  except RuntimeError:
    pass
  library, model, options = PEERS[name]
  options = {key: size if key == "img_size" else value for key, value in options.items()}
  if library == "timm":
    return importlib.import_module("timm").create_model(model, num_classes=0, **options)
  if library == "torchvision":
    module = getattr(importlib.import_module("torchvision.models"), model)(**options)
    module.fc = torch.nn.Identity()
    return module
  module = importlib.import_module("pretrainedmodels").__dict__[model](num_classes=1000, **options)
  module.last_linear = torch.nn.Identity()
  # Its own pooling takes 224 pixels alone.
  module.global_pool = torch.nn.AdaptiveAvgPool2d(1)
  return module


if __name__ == "__main__":
  if sys.argv[1:] == ["platform"]:
    print(json.dumps(platform()))
  else:
    _, library, kind, name, batch, size, dtype = sys.argv
    sizes = int(batch), int(size), dtype
    if library == "jaxdml":
      print(json.dumps(of_jaxdml(name, kind, *sizes)))
    else:
      print(json.dumps(of_torch(library, name, kind, *sizes)))
