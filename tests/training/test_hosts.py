"""Two hosts (processes on loopback, gloo) train the model that one host with two devices trains."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.training.test_loop import digits_config, final_state
from tests.xla import cheap_flags

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
HOST = """
import sys
import jax
port, count, index, data_dir, workdir = sys.argv[1:]
if int(count) > 1:
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
assert jax.device_count() == 2
from jaxdml.training import loop
from tests.training.test_loop import digits_config
rows = loop.train_and_evaluate(digits_config(data_dir, **{overrides}), workdir)
print(rows["trained model"]["map@r"])
"""
OVERRIDES = {"hdml.enabled": True, "hdml.slots": 4, "eval.raw_pixels": False}


def _host(port, count, index, data_dir, workdir):
  devices = 2 // count
  environment = {
    **os.environ,
    "XLA_FLAGS": f"{cheap_flags()} --xla_force_host_platform_device_count={devices}",
    "PYTHONPATH": str(ROOT),
  }
  code = HOST.replace("{overrides}", repr(OVERRIDES))
  arguments = [str(port), str(count), str(index), data_dir, str(workdir)]
  return subprocess.Popen(
    [sys.executable, "-c", code, *arguments],
    env=environment,
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def _free_port():
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    return probe.getsockname()[1]


@pytest.mark.slow
def test_two_hosts_equal_one(data_dir, tmp_path):
  port = _free_port()
  hosts = [_host(port, 2, index, data_dir, tmp_path / "two") for index in range(2)]
  hosts.append(_host(port, 1, 0, data_dir, tmp_path / "one"))
  outputs = [host.communicate(timeout=300) for host in hosts]
  for host, (_, error) in zip(hosts, outputs, strict=True):
    assert host.returncode == 0, error
  config = digits_config(data_dir, **OVERRIDES)
  two, one = (final_state(tmp_path / name, config)[0] for name in ("two", "one"))
  assert int(two.step) == 8
  for a, b in zip(jax.tree.leaves(two), jax.tree.leaves(one), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
  # Only the first host writes, and each step once.
  lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
  assert len(lines) == len((tmp_path / "one" / "metrics.jsonl").read_text().splitlines())
  assert len(list((tmp_path / "two").glob("events.out.tfevents.*"))) == 1
