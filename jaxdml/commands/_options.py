"""The options that several commands take: one spelling, one meaning, one line of help each."""

import argparse
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from jaxdml.commands._cli import Parser, UsageError, nearest

PICTURES = (".png", ".pdf", ".svg")
"""Kinds of pictures that commands draw."""


def _path(text: str) -> pathlib.Path:
  return pathlib.Path(os.path.expanduser(text))  # Path.expanduser raises where nobody is ~name.


def number(kind: type, least: float, most: float = math.inf) -> Callable[[str], Any]:
  """Returns a parser of finite numbers from `least` to `most`."""

  def parse(text: str) -> Any:
    try:
      value = kind(text)
    except ValueError:
      value = None
    if value is None or not (least <= value <= most and value < math.inf):
      what = "a whole number" if kind is int else "a number"
      bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
      raise argparse.ArgumentTypeError(f"expected {what} {bounds}, got {text!r}")
    return value

  return parse


def one_of(names: Sequence[str]) -> Callable[[str], str]:
  """Returns a parser that takes some names alone, and says which is nearest to another one."""

  def parse(text: str) -> str:
    if text not in names:
      raise argparse.ArgumentTypeError(
        f"expected one of {', '.join(names)}, got {text!r}{nearest(text, names)}"
      )
    return text

  return parse


count = number(int, 1)
_OPTIONS: dict[str, dict[str, Any]] = {
  "workdir": {"type": _path, "metavar": "DIR", "help": "of a run of jaxdml train"},
  "out": {"type": _path, "metavar": "FILE", "help": "the file to write"},
  "images": {"type": _path, "metavar": "DIR", "help": "a folder of images, searched at any depth"},
  "dataset": {"help": "a data set: glyphs, tfds:NAME, image_folder/NAME, ..."},
  "split": {"default": "test", "help": "of the data set (test)"},
  "label": {"help": "the column that says what matches (the data set's own)"},
  "data_dir": {"type": os.path.expanduser, "metavar": "DIR",
               "help": "TFDS data directory (the run's, else $TFDS_DATA_DIR or "
               "~/tensorflow_datasets)"},
  "batch_size": {"type": count, "default": 256, "metavar": "N", "help": "images a batch (256)"},
  "num_workers": {"type": number(int, 0), "metavar": "N",
                  "help": "processes that decode, 0: a thread (the run's data.num_workers)"},
  "max_bad_images": {"type": number(float, 0, 1), "metavar": "SHARE",
                     "help": "share of images that may be unreadable (the run's "
                     "data.max_bad_images)"},
  "shard_size": {"type": count, "default": 8192, "metavar": "N", "help": "images a shard (8192)"},
  "max_points": {"type": count, "default": 2000, "metavar": "N",
                 "help": "images on the map (2000)"},
  "batches": {"type": count, "default": 3, "metavar": "N", "help": "how many, from the first (3)"},
  "tolerance": {"type": number(float, 0), "default": 1e-4, "metavar": "T",
                "help": "largest difference of a unit embedding (1e-4)"},
  "manifest": {"type": _path, "metavar": "FILE",
               "help": "CSV or JSONL: path, label [, coarse, fine, split]"},
  "model_config": {"type": _path, "metavar": "FILE",
                   "help": "timm's config.json or transformers' preprocessor_config.json, which "
                   "says how pixels are prepared (the one beside --source; else as the arch's "
                   "authors did)"},
  "embeddings": {"type": _path, "action": "append", "metavar": "DIR",
                 "help": "the --out of jaxdml embed"},
  "seed": {"type": number(int, 0), "default": 0, "metavar": "N",
           "help": "of what is drawn at random (0)"},
  "k": {"type": count, "metavar": "N", "help": "neighbours of each query"},
  "queries": {"type": count, "metavar": "N", "help": "how many queries are shown"},
  "source": {"type": _path, "metavar": "DIR", "help": "where the files are"},
  "overwrite": {"action": "store_true", "help": "make it anew; the old one stays until it is done"},
  "multihost": {"action": "store_true", "help": "join the other hosts first (TPU pods, Slurm)"},
  # Lists are given as several values, or by giving the option several times.
  "query": {"nargs": "+", "action": "extend", "metavar": "FILE", "type": _path},
  "format": {"nargs": "+", "action": "extend"},
}  # fmt: skip


def add(parser: Parser | argparse._ArgumentGroup, *names: str, **changes: Any) -> None:
  """Puts shared options into a parser; `changes` is what this command says otherwise of them."""
  for name in names:
    parser.add_argument(f"--{name}", **{**_OPTIONS[name], **changes})


def check_file(name: str, path: pathlib.Path, suffixes: Sequence[str] = ()) -> None:
  """Refuses a file to write that has another suffix or is a folder, before the work for it."""
  if suffixes and path.suffix.lower() not in suffixes:
    listed = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}" if suffixes[1:] else suffixes[0]
    raise UsageError(f"--{name}: expected a name that ends in {listed}; got {path}")
  if path.is_dir():
    raise UsageError(f"--{name}={path} is a folder; expected the name of a file in it")
