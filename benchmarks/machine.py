"""The machine and the versions, to print beside every figure."""

from __future__ import annotations

import importlib.metadata
import os
import platform


def cpu_model() -> str:
  """The processor's name."""
  try:
    with open("/proc/cpuinfo") as file:
      return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
  except (OSError, StopIteration):
    return platform.processor() or platform.machine()


def describe(*others: str) -> str:
  """Processor, cores, accelerator, Python and versions (of `others` too), in one line."""
  import jax

  devices = {device.device_kind for device in jax.devices()} - {"cpu"}
  accelerator = f", {len(jax.devices())} x {', '.join(sorted(devices))}" if devices else ""
  versions = ", ".join(
    f"{name} {importlib.metadata.version(name)}"
    for name in ("jax", "jaxlib", "flax", "numpy", *others)
  )
  return (
    f"{cpu_model()}, {os.cpu_count()} cores{accelerator}; "
    f"Python {platform.python_version()}, {versions}"
  )
