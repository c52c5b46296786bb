"""Eight fake CPU devices, cheap and shared compilation, set before JAX starts; `--tests`."""

import collections
import gc
import os
import pathlib

from tests.xla import cheap_flags

_FLAG = "--xla_force_host_platform_device_count=8"
if _FLAG not in os.environ.get("XLA_FLAGS", ""):
  os.environ["XLA_FLAGS"] = f"{cheap_flags()} {os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()
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


def pytest_addoption(parser):
  parser.addoption(
    "--every",
    type=int,
    default=1,
    metavar="N",
    help="of each test's parametrised cases run the first and every Nth after it: another version "
    "of Python and JAX is tried on all that there is, at a fraction of the time",
  )
  parser.addoption(
    "--tests",
    type=int,
    default=1,
    metavar="N",
    help="of the tests the first and every Nth after it",
  )
  parser.addoption(
    "--turn",
    type=int,
    default=0,
    metavar="K",
    help="of the tests those with number K and every --tests after and before it: K = 0 to N - 1 "
    "run all of them once",
  )


def pytest_collection_modifyitems(config, items):
  every, tests, turn = (config.getoption(f"--{name}") for name in ("every", "tests", "turn"))
  seen, places, kept, left = collections.Counter(), {}, [], []
  for item in items:
    test = item.nodeid.partition("[")[0]
    place = places.setdefault(test, len(places))
    (left if seen[test] % every or (place - turn) % tests else kept).append(item)
    seen[test] += 1
  if left:
    config.hook.pytest_deselected(items=left)
    items[:] = kept
