"""Eight fake CPU devices and a shared compilation cache, set before JAX starts."""

import gc
import os
import pathlib

_FLAG = "--xla_force_host_platform_device_count=8"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
_CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax  # noqa: E402
import pytest  # noqa: E402

_MAPS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def _few_mappings():
  """Every compiled program maps memory, and Linux ends a process at 65,530 maps: drop old ones."""
  yield
  if _MAPS.exists() and _MAPS.read_bytes().count(b"\n") > 20_000:
    jax.clear_caches()
    gc.collect()
