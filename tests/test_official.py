"""From the archives that people download to a trained and evaluated model, as a user does it.

Two of the four: Cars196 with its GoogLeNet, and In-Shop with queries, a gallery and a report. How
each archive is read is for tests/prepare.
"""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.data import official

ROOT = pathlib.Path(__file__).resolve().parent.parent
WRITERS = {
  "cars": ("cars196", official.write_cars),
  "inshop": ("inshop", official.write_inshop),
}


def run(module, *args):
  # One device, as on a user's machine; three steps do not pay for XLA's optimizations.
  environment = {
    **os.environ,
    "XLA_FLAGS": "",
    "PYTHONPATH": str(ROOT),
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
  }
  result = subprocess.run(
    [sys.executable, "-W", "ignore", "-m", module, *args],
    env=environment,
    cwd=ROOT,
    text=True,
    capture_output=True,
    timeout=600,
  )
  assert result.returncode == 0, result.stderr
  return result


@pytest.mark.slow
@pytest.mark.parametrize("config", WRITERS)
def test_archives_to_results(config, tmp_path):
  name, write = WRITERS[config]
  photos = write(tmp_path / "source")
  data_dir, workdir = tmp_path / "data", tmp_path / "run"
  prepared = run(
    "jaxdml", "prepare", name, f"--source={tmp_path / 'source'}", f"--data_dir={data_dir}",
    "--allow_partial",
  )  # fmt: skip
  assert "is not whole" in prepared.stderr  # The official counts are compared.
  flags = {
    "data.data_dir": data_dir,
    "data.image_size": 32,
    "data.batch_size": 8,
    "data.num_workers": 0,
    "eval.batch_size": 8,
    "train.duration": "3 steps",
    "train.evaluate_every": "3 steps",
    "train.checkpoint_every": "3 steps",
    "train.log_every": "1 steps",
    "train.report": config == "inshop",  # a split in queries and gallery
    "optimizer.milestones": "()",
  }
  if config != "cars":
    flags["encoder.name"] = "convnet"  # One GoogLeNet is enough to compile.
  run(
    "jaxdml.main", f"--config=configs/hdml_{config}.py", f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in flags.items()),
  )  # fmt: skip
  assert (workdir / "report.html").exists() == flags["train.report"]
  results = json.loads((workdir / "results.json").read_text())
  trained = results["trained model"]
  tested = [photo for photo in photos if photo.split in ("test", "query", "gallery")]
  queries = [photo for photo in tested if photo.split != "gallery"]
  assert trained["num_queries"] + trained["num_without_match"] == len(queries)
  assert 0.0 <= trained["recall@1"] <= 1.0
  lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
  assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
