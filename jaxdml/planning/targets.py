"""Chips with their published limits, and their compilers, which need no chip.

TPUs: `libtpu` compiles for any slice of any generation. GPUs: JAX's CUDA plugin compiles for a
described GPU, with NVIDIA's assembler from a wheel and without libraries or a driver.
"""

import importlib.util
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdml.errors import JaxdmlError


class PlanError(JaxdmlError, RuntimeError):
  """No plan can be made: the target or its compiler is unknown, or the compiler refused."""


class Chip(NamedTuple):
  """Published limits of one chip.

  Sources: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e), NVIDIA's data sheets of A100, H100, H200;
  arithmetic is dense bfloat16.
  """

  name: str  # as in data sheets
  platform: str  # JAX's: tpu or cuda
  tflops: float  # 1e12 operations/s in bfloat16
  bandwidth: float  # GB/s to its memory
  memory: float  # bytes
  usable: float  # the share of it that a program has
  link: float  # GB/s that it sends to other chips, all links together
  # Cost of a product by operand dtype and precision, in bfloat16 products.
  passes: Mapping[str, float]
  default: str  # the smallest slice
  gpu: str = ""  # XLA's description of a GPU, beyond the limits above


# A TPU multiplies bfloat16 alone; float32 is made of one, three or six such products.
_TPU = {"bfloat16": 1.0, "default": 1.0, "high": 3.0, "highest": 6.0}
_GB, _GIB = 1e9, 2.0**30
# The share that JAX takes by default (XLA_PYTHON_CLIENT_MEM_FRACTION) is .75 of a GPU; of a TPU
# libtpu keeps a quarter of a GiB.
_SHARE = 0.75


def _tpu(name: str, tflops: float, bandwidth: float, gib: float, link: float, default: str) -> Chip:
  usable = 1 - 0.25 / gib
  return Chip(name, "tpu", tflops, bandwidth, gib * _GIB, usable, link, _TPU, default)


def _gpu(
  name: str, tflops: float, bandwidth: float, memory: float, link: float,
  rates: tuple[float, float], about: str,
) -> Chip:  # fmt: skip
  """`rates`: TFLOP/s of float32 by TF32 tensor cores and by CUDA cores."""
  tf32, cores = (tflops / rate for rate in rates)
  passes = {"bfloat16": 1.0, "default": tf32, "high": tf32, "highest": cores}
  return Chip(name, "cuda", tflops, bandwidth, memory, _SHARE, link, passes, "1", about)


_HOPPER = (
  "shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 core_count: 132 "
  "fpus_per_core: 128 l2_cache_size: 52428800 clock_rate_ghz: 1.98 "
  "cuda_compute_capability { major: 9 }"
)
_AMPERE = (
  "shared_memory_per_core: 167936 shared_memory_per_block_optin: 166912 core_count: 108 "
  "fpus_per_core: 64 l2_cache_size: 41943040 clock_rate_ghz: 1.41 "
  "cuda_compute_capability { major: 8 }"
)

CHIPS: dict[str, Chip] = {
  "v4": _tpu("TPU v4", 275, 1228, 32, 300, "2x2x1"),
  "v5e": _tpu("TPU v5e", 197, 819, 16, 200, "2x2"),
  "v5p": _tpu("TPU v5p", 459, 2765, 95, 600, "2x2x1"),
  "v6e": _tpu("TPU v6e", 918, 1640, 32, 400, "2x2"),
  "a100": _gpu("NVIDIA A100-SXM4-80GB", 312, 2039, 80 * _GB, 300, (156, 19.5), _AMPERE),
  "h100": _gpu("NVIDIA H100 80GB HBM3", 989, 3352, 80 * _GB, 450, (494, 67), _HOPPER),
  "h200": _gpu("NVIDIA H200 141GB HBM3e", 989, 4800, 141 * _GB, 450, (494, 67), _HOPPER),
}
"""Chips by the names that targets begin with."""

# What JAX calls a device, or the beginning of it: a longer one first.
_KINDS = {
  "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5p": "v5p", "TPU v5": "v5p", "TPU v6": "v6e",
  "TPU v4": "v4", "NVIDIA A100": "a100", "NVIDIA H100": "h100", "NVIDIA H200": "h200",
}  # fmt: skip


def name_of(device: Any) -> str | None:
  """Returns the name in `CHIPS` of a device of this machine; None of one that is not there."""
  kind = device.device_kind
  return next((name for start, name in _KINDS.items() if kind.startswith(start)), None)


# Limits that all these GPUs share, as XLA's GpuTargetConfigProto names them.
_GPU_TEXT = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f} device_memory_size: {memory:.0f} {about}
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 8 }} device_description_str: "{name}"
"""
# No GPU is there to time kernels on.
_GPU_OPTIONS = {"xla_gpu_autotune_level": 0}


class Target(NamedTuple):
  """Chips to compile for."""

  name: str  # as given, with its slice
  chip: Chip
  devices: Sequence[Any]  # JAX's descriptions of them
  options: Mapping[str, Any]  # of the compiler

  def mesh(self, axis_name: str) -> jax.sharding.Mesh:
    """Returns all chips along one axis."""
    return jax.sharding.Mesh(np.array(self.devices), (axis_name,))

  def compile(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles a program that was lowered for these chips.

    Raises PlanError: the compiler's reason, in one line; `OutOfMemory` if memory is too small.
    """
    try:
      return self._compile(lowered, {})
    except PlanError as error:
      # Without a GPU to try them on, Triton finds no tiles for some products; cuBLAS takes all.
      if self.chip.platform != "cuda" or "tile sizes" not in str(error):
        raise
      return self._compile(lowered, {"xla_gpu_enable_triton_gemm": False})

  def _compile(
    self, lowered: jax.stages.Lowered, options: Mapping[str, Any]
  ) -> jax.stages.Compiled:
    # A program for a chip that is not here can be kept on disk, but never be read again.
    least = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update("jax_persistent_cache_min_compile_time_secs", math.inf)
    try:
      return lowered.compile(compiler_options={**self.options, **options})
    except jax.errors.JaxRuntimeError as error:
      reason = " ".join(str(error).split("\n\n")[0].split())
      if reason.startswith("RESOURCE_EXHAUSTED"):
        raise OutOfMemory(reason) from error
      raise PlanError(f"{self.name}: the compiler refused: {reason[:300]}") from error
    finally:
      jax.config.update("jax_persistent_cache_min_compile_time_secs", least)


class OutOfMemory(PlanError):
  """The compiler says that a program does not fit a chip."""


def target(text: str) -> Target:
  """Returns the chips of "CHIP" or "CHIP:SLICE": v5e:2x2, v5p:2x2x1, h100, h100:8, h100:2x8.

  A TPU slice is its topology, "1x1" one chip; a GPU's is how many, or hosts x GPUs of each.

  Raises PlanError: an unknown chip or slice, or a compiler that is not installed.
  """
  kind, _, given = text.strip().lower().partition(":")
  if kind not in CHIPS:
    known = ", ".join(f"{name}:{chip.default}" for name, chip in CHIPS.items())
    raise PlanError(f"--target={text}: expected a chip and its slice, one of {known} or larger")
  chip = CHIPS[kind]
  layout = given or chip.default
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", layout):
    raise PlanError(f"--target={text}: expected a slice such as {kind}:{chip.default}")
  name = f"{kind}:{layout}"
  if chip.platform == "tpu":
    return Target(name, chip, _tpu_devices(name, layout), {})
  return Target(name, chip, _gpu_devices(name, chip, layout), _GPU_OPTIONS)


def _tpu_devices(name: str, layout: str) -> Sequence[Any]:
  if importlib.util.find_spec("libtpu") is None:
    raise PlanError(
      f"--target={name}: needs the TPU's compiler, which is not installed: pip install "
      f"'jaxdml[plan-tpu]' (libtpu; no TPU is needed)"
    )
  # Asking Google Cloud which TPU this is would take minutes where there is none.
  for variable, value in (
    ("TPU_SKIP_MDS_QUERY", "1"), ("TPU_ACCELERATOR_TYPE", "v5litepod-4"),
    ("TPU_WORKER_HOSTNAMES", "localhost"),
    # Else one process at a time could compile, as one at a time can use a TPU.
    ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
  ):  # fmt: skip
    os.environ.setdefault(variable, value)
  single = set(layout) <= {"1", "x"}
  return _described("tpu", name, **({"chips_per_host_bounds": (1, 1, 1)} if single else {}))


def _gpu_devices(name: str, chip: Chip, layout: str) -> Sequence[Any]:
  if importlib.util.find_spec("jax_cuda12_plugin") is None:
    raise PlanError(
      f"--target={name}: needs the GPU's compiler, which is not installed: pip install "
      f"'jaxdml[plan-gpu]' jax-cuda12-plugin=={jax.__version__} (no GPU is needed)"
    )
  # The plugin refuses to load without CUDA's libraries, unless it is told not to look for them.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  sizes = [int(size) for size in layout.split("x")]
  if len(sizes) > 2:
    raise PlanError(f"--target={name}: expected GPUs, or hosts x GPUs of each, as in h100:2x8")
  hosts, count = (1, *sizes)[-2:]
  text = _GPU_TEXT.format(
    bandwidth=chip.bandwidth * _GB, memory=chip.memory, about=chip.gpu, name=chip.name
  )
  return _described("cuda", "gpu", target_config=text, topology=f"1x{hosts}x{count}")


def _described(platform: str, name: str, **options: Any) -> Sequence[Any]:
  from jax.experimental import topologies

  try:
    return topologies.get_topology_desc(name, platform, **options).devices
  except Exception as error:  # Each plugin raises its own kinds.
    reason = " ".join(str(error).split())[:300]
    raise PlanError(
      f"--target={name}: the {platform} compiler knows no such slice: {reason}"
    ) from error


def transfers(size: float, kind: str, devices: int) -> float:
  """Bytes that a chip sends for one collective by rings, the least there can be.

  `size` is that of the larger of operand and result, a device.
  """
  others = (devices - 1) / devices
  return size * others * (2 if kind == "all-reduce" else 1)


def per_second(chip: Chip) -> tuple[float, float, float]:
  """Operations (bfloat16), bytes to memory and bytes to other chips in a second."""
  return chip.tflops * 1e12, chip.bandwidth * _GB, chip.link * _GB
