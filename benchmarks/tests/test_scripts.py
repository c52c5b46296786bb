"""Every script in benchmarks/ runs from end to end on tiny sizes: no figure stands on a broken one.

What a script prints is not judged: how fast this machine is does not matter here.
"""

import os
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parent.parent
# Of each script the arguments, and what it prints if all went well.
RUNS = {
  "checkpoint_digests": (["--encoder=resnet18", "--rounds=1"], "| `resnet18` |"),
  "call_path": (["--batch=64", "--rounds=1"], "margin, nearest_positive"),
  "damage_campaign": (["--acts=12"], "12 acts of damage, 0 not told"),
  "encoders": (
    [
      "--only",
      "resnet18",
      "--passes",
      "forward",
      "--batch",
      "4",
      "--size",
      "32",
      "--peers",
    ],
    "| `resnet18` | forward |",
  ),
  "encoders_by_side": (
    ["--only", "resnet18", "--sides", "33", "40", "--images=1", "--calls=1"],
    "| `resnet18` |",
  ),
  "accelerator": (["--tiny"], "multi_similarity"),
  "evaluation": (["--tiny", "--repeats=1", "--no-kmeans"], "| of the product |"),
  "evaluation_kmeans": (["--tiny", "--iterations=2"], "without structure"),
  "export": (["--encoder", "convnet"], "| `convnet` | 32 |"),
  "kill_campaign": (["--kills=1", "--early=0", "--steps=10"], "the same, bit by bit"),
  "footprint": (["--rounds=1", "--only=losses, mining"], "| losses, mining |"),
  "gradcache": (["--batch", "8", "--image_size", "16", "--chunks", "0", "4"], "| 4 |"),
  "hdml_overhead": (
    [
      "--encoder",
      "convnet",
      "--image-size",
      "16",
      "--batch",
      "4",
      "--classes",
      "4",
      "--rounds",
      "1",
    ],
    "HDML / N-pair",
  ),
  "hdml_overhead after the encoder": (
    ["--after-encoder", "--classes=70", "--rounds=1"],
    "EPS / all positives",
  ),
  "input_pipeline": (["--tiny", "--rounds=1", "--images=64"], "Start with"),
  "losses": (
    ["--sizes", "16", "--large", "16", "--only", "margin", "--side", "64"],
    "GFLOP/s)",
  ),
  "pointwise": (["--images=1"], "| 1, 64, 16 to 96 |"),
  "vit_compile": (
    ["--encoder=vit_s16", "--depths=1", "--batch=2", "--size=32"],
    "| 1 | True |",
  ),
}


def _run(script: str, *arguments: str) -> str:
  root = str(BENCHMARKS.parent)
  environment = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
    "JAX_PLATFORMS": "cpu",
  }
  run = subprocess.run(
    [sys.executable, str(BENCHMARKS / f"{script}.py"), *arguments],
    capture_output=True, text=True, check=False, env=environment, timeout=1500,
  )  # fmt: skip
  assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-4000:]}"
  return run.stdout


@pytest.mark.parametrize("name", RUNS)
def test_it_runs(name):
  arguments, printed = RUNS[name]
  assert printed in _run(name.split()[0], *arguments)


def test_letters_folder(tmp_path):
  arguments = ["--dataset=digits", f"--data_dir={tmp_path}", "--classes=2"]
  printed = _run("letters_folder", *arguments, f"--out={tmp_path / 'letters'}")
  assert printed.startswith("2 classes")
  assert len(list((tmp_path / "letters").glob("*/*.png"))) > 100


def test_seeds(tmp_path):
  short = (
    f"--config.data.data_dir={tmp_path} --config.data.batch_size=8 "
    "--config.data.images_per_class=4 --config.train.duration=2 steps "
    "--config.eval.clustering=False --config.eval.diagnostics=False"
  )
  printed = _run(
    "seeds", "--config=configs/eps_digits.py", f"--workdir={tmp_path / 'runs'}", "--seeds", "0",
    "--arm", f"short {short}",
  )  # fmt: skip
  assert "| short |" in printed and "raw pixels" in printed


def test_each_script_is_tried():
  scripts = {path.stem for path in BENCHMARKS.glob("*.py") if not path.stem.startswith("_")}
  assert scripts == {name.split()[0] for name in RUNS} | {"letters_folder", "seeds", "compiled"}
