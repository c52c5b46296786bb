"""Writes letters of the glyphs data set as a folder a class, to train on as people's own photos.

  python benchmarks/letters_folder.py --out=letters --classes=80
  jaxdml prepare image_folder --source=letters --name=letters
  python benchmarks/seeds.py --config=configs/finetune_photos.py:letters --workdir=runs/letters \\
    --seeds 0 --arm "fine-tuned"
"""

from __future__ import annotations

import argparse
import pathlib

import numpy as np

from jaxdml import data


def main() -> None:
  """Writes the images of the classes that have most of them."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--out", type=pathlib.Path, required=True, help="folder to make")
  parser.add_argument("--classes", type=int, default=80, help="(%(default)s)")
  parser.add_argument("--dataset", default="glyphs", help="(%(default)s)")
  parser.add_argument("--data_dir", default=None, help="TFDS data directory")
  args = parser.parse_args()
  train = data.load(args.dataset, "train", data_dir=args.data_dir)
  labels, names = train.column("label"), train.label_names("label")
  values, counts = np.unique(labels, return_counts=True)
  chosen = values[np.argsort(-counts, kind="stable")[: args.classes]]
  for label in chosen:
    folder = args.out / names[label].replace("/", "_")
    folder.mkdir(parents=True)
    rows = np.flatnonzero(labels == label)
    for row, encoded in zip(rows, train.read(rows), strict=True):
      (folder / f"{row:05d}.png").write_bytes(encoded)
  print(f"{len(chosen)} classes, {int(np.isin(labels, chosen).sum())} images in {args.out}")


if __name__ == "__main__":
  main()
