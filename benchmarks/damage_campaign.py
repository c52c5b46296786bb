"""Damage done at random to every file that we write: is it ever read as if nothing had happened?

python benchmarks/damage_campaign.py [--acts=500] [--seed=0] [--only run set embeddings export]

Makes a small run, a prepared data set, a folder of embeddings and an exported model, and damages a
copy of one of them at a time: a bit flips, a block is overwritten, a file is cut short, emptied,
deleted, or swapped with another. What is left is read as our commands read it, and it ends as

    same       what was read is what was written
    message    one clear error, or another result and a line that says so
    SILENT     another result, and not a word
    TRACEBACK  an error that no command explains
    HANG       nothing within --limit seconds

Prints a table, each act of the last three with its number, and exits with 1 if there is any;
--only and --first repeat one.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import hashlib
import io
import os
import pathlib
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from jaxdml import commands, data, inference, search, training
from jaxdml.training import checkpoints, setup
from jaxdml.training import workdir as workdir_lib
from jaxdml.training.metrics_log import MetricsWriter

BAD = ("SILENT", "TRACEBACK", "HANG")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
TINY = {
  "data.dataset": "digits", "data.preprocess": "digits", "data.image_size": 16,
  "data.batch_size": 16, "encoder.options.widths": (4, 8), "embedding.dim": 8,
  "train.duration": "6 steps", "train.evaluate_every": "3 steps",
  "train.checkpoint_every": "2 steps", "train.log_every": "1 steps", "train.report": False,
  "eval.clustering": False, "eval.diagnostics": False, "eval.raw_pixels": False,
  "eval.untrained": False, "eval.select_by": "last",
}  # fmt: skip


class Hang(BaseException):
  """The limit is over."""


def digest(tree: Any) -> str:
  """A digest of nested containers of arrays, texts and numbers."""
  leaves, structure = jax.tree.flatten(tree)
  found = hashlib.sha256(str(structure).encode())
  for leaf in leaves:
    array = np.asarray(leaf)
    found.update(f"{array.dtype} {array.shape}".encode())
    found.update(array.tobytes() if array.dtype != object else repr(leaf).encode())
  return found.hexdigest()


def make(folder: pathlib.Path) -> dict[str, pathlib.Path]:
  """Writes one of each kind."""
  places = {name: folder / name for name in ("run", "set", "embeddings", "export")}
  config = training.default_config()
  for key, value in TINY.items():
    *sections, name = key.split(".")
    section = config
    for part in sections:
      section = section[part]
    with section.unlocked():
      section[name] = value
  config.data.data_dir = str(places["set"])
  training.train_and_evaluate(config, places["run"])
  model = inference.load(places["run"])
  images = inference.DatasetImages.open("digits", "test", data_dir=str(places["set"]))
  search.build_store(model, images, places["embeddings"], shard_size=300)
  inference.export(model, places["export"], formats=("stablehlo", "onnx"))
  return places


def read_run(run: pathlib.Path, whole_set: pathlib.Path) -> Any:
  """All that a command takes from a run: its model, its history and results, and to go on."""
  model = inference.load(run, data_dir=str(whole_set))
  config = workdir_lib.read_config(run, str(whole_set))
  prepared = setup.prepare(config)
  workdir_lib.check_data(run, prepared.splits, config.data.label)
  history, results = training.read_metrics(run), workdir_lib.read_results(run)
  for remark in model.remarks:
    print(remark, file=sys.stderr)
  manager = checkpoints.Checkpoints(run, config.train.keep)
  try:
    resumed = manager.resume(prepared.abstract_state(), lambda said: print(said, file=sys.stderr))
  finally:
    manager.close()
  if resumed:
    state, progress = resumed
    with MetricsWriter(run, int(state.step), progress.lines) as writer:
      print(writer.lost or "", file=sys.stderr)
  config = repr(model.config.to_dict())
  return model.fingerprint, model.step, config, repr(results), history, resumed


def read_set(folder: pathlib.Path, _: pathlib.Path) -> Any:
  """Records, labels and names of a data set."""
  parts = []
  for split in ("train", "test"):
    part = data.load("digits", split, data_dir=str(folder))
    names = {name: part.label_names(name) for name in part.labels}
    parts.append((part.read(range(len(part))), dict(part.labels), repr(names)))
  return parts


def read_embeddings(folder: pathlib.Path, _: pathlib.Path) -> Any:
  """Vectors, names and origin of a store."""
  store = search.Store.open(folder, progress=False)
  return store.embeddings, repr((store.paths, store.labels, store.model, store.source))


def read_export(folder: pathlib.Path, _: pathlib.Path) -> Any:
  """An exported model, and what it makes of two images."""
  model = inference.load(folder)
  return model.fingerprint, model.step, repr(model.config), model.embed_batch(IMAGES)


READERS: dict[str, Callable[[pathlib.Path, pathlib.Path], Any]] = {
  "run": read_run, "set": read_set, "embeddings": read_embeddings, "export": read_export,
}  # fmt: skip


def damage(folder: pathlib.Path, rng: np.random.Generator) -> str:
  """Damages one file; says what was done."""
  files = sorted(path for path in folder.rglob("*") if path.is_file())
  path = files[rng.integers(len(files))]
  content = bytearray(path.read_bytes())
  act = str(rng.choice(["flip", "flip", "flip", "block", "cut", "empty", "delete", "swap"]))
  at = int(rng.integers(max(len(content), 1)))
  if act == "flip" and content:
    content[at] ^= 1 << int(rng.integers(8))
  elif act == "block":
    content[at : at + 64] = rng.bytes(len(content[at : at + 64]))
  elif act == "cut":
    del content[at:]
  elif act == "empty":
    content.clear()
  elif act == "swap":
    other = files[rng.integers(len(files))]
    content, before = bytearray(other.read_bytes()), content
    other.write_bytes(before)
  path.unlink() if act == "delete" else path.write_bytes(content)
  return f"{act} {path.relative_to(folder)} at {at}"


def outcome(read: Callable[[], Any], limit: int) -> tuple[str, str, str]:
  """(class, digest of what was read, what was said) of one reading; the class is "" if it went."""

  def over(*_: Any) -> None:
    raise Hang

  found, said = [], io.StringIO()
  before = signal.signal(signal.SIGALRM, over)
  signal.alarm(limit)
  try:
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
      status = commands.guard(lambda: found.append(digest(read())), user_errors=(ValueError,))
  except Hang:
    return "HANG", "", said.getvalue()
  except Exception as error:
    return "TRACEBACK", "", f"{type(error).__name__}: {error}"
  finally:
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
  text = said.getvalue()
  if not status:
    return "", found[0], text
  return ("message" if text.count("error: ") == 1 and len(text) < 2000 else "TRACEBACK"), "", text


def main() -> int:
  """Prints the table; returns 1 if any damage was not told."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--acts", type=int, default=500)
  parser.add_argument("--first", type=int, default=0, help="number of the first act")
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--limit", type=int, default=60, help="seconds an act may take")
  parser.add_argument("--only", nargs="*", default=list(READERS), choices=list(READERS))
  args = parser.parse_args()
  sys.unraisablehook = lambda _: None  # TensorStore's, of checkpoints that are told of
  counts: dict[str, collections.Counter[str]] = {n: collections.Counter() for n in args.only}
  bad = []
  with tempfile.TemporaryDirectory() as temporary:
    places = make(pathlib.Path(temporary) / "whole")
    whole = places["set"]
    read = lambda name, folder: outcome(functools.partial(READERS[name], folder, whole), args.limit)
    expected = {name: read(name, copy(places, name, temporary)) for name in counts}
    acts = range(args.first, args.first + args.acts)
    for number in tqdm(acts, desc="damage", unit="act", disable=None):
      name = list(READERS)[number % len(READERS)]
      if name not in counts:
        continue
      rng, folder = np.random.default_rng((args.seed, number)), copy(places, name, temporary)
      done = damage(folder, rng)
      kind, result, said = read(name, folder)
      _, whole_result, usual = expected[name]
      if not kind:
        kind = "same" if result == whole_result else "SILENT" if said == usual else "message"
      counts[name][kind] += 1
      if kind in BAD:
        bad.append(f"{kind} act {number}, {name}: {done}: {' '.join(said.split())[:300]}")
  kinds = ("same", "message", *BAD)
  print(f"| what | {' | '.join(kinds)} |\n|{'---|' * (len(kinds) + 1)}")
  for name, row in counts.items():
    print(f"| {name} | " + " | ".join(str(row[kind]) for kind in kinds) + " |")
  print("\n".join(bad))
  print(f"{sum(row.total() for row in counts.values())} acts of damage, {len(bad)} not told")
  return 1 if bad else 0


def copy(places: dict[str, pathlib.Path], name: str, temporary: str) -> pathlib.Path:
  """A fresh copy of one kind to damage."""
  folder = pathlib.Path(temporary) / "damaged" / name
  shutil.rmtree(folder, ignore_errors=True)
  shutil.copytree(places[name], folder)
  return folder


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  sys.exit(main())
