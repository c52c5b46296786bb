"""The machine and the versions, to print beside every figure."""

import importlib.metadata
import os
import platform


def describe_machine() -> str:
  """Processor, cores and accelerators."""
  import jax

  try:
    with open("/proc/cpuinfo") as file:
      cpu = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
  except (OSError, StopIteration):
    cpu = platform.processor() or platform.machine()
  devices = {device.device_kind for device in jax.devices()} - {"cpu"}
  accelerator = f", {len(jax.devices())} x {', '.join(sorted(devices))}" if devices else ""
  return f"{cpu}, {os.cpu_count()} cores{accelerator}"


def describe_versions(*others: str) -> str:
  """Versions of Python, jax, jaxlib, flax, numpy and of `others`."""
  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}"
    for name in ("jax", "jaxlib", "flax", "numpy", *others)
  )
  return f"Python {platform.python_version()}, {versions}"


def describe(*others: str) -> str:
  """Machine and versions (of `others` too) in one line."""
  return f"{describe_machine()}; {describe_versions(*others)}"
