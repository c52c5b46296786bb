"""Images a second, from JPEGs on disk to training batches: jaxdml, the decoder alone, and torch.

  python benchmarks/input_pipeline.py            # about 3 minutes on 2 cores
  python benchmarks/input_pipeline.py --write

All three prepare the same 640 x 480 JPEGs (quality 90) to 224 x 224: random resized crop, flip. The
limit decodes in full and resizes a crop with OpenCV, from memory, in 2 processes, and does nothing
else. The peer is a torch DataLoader with Pillow transforms and 2 workers. The three take turns, and
a contestant's workers wait while the others have theirs; the figures are medians of the rounds,
ratios turn by turn.
Then the start: from `load` to the first batch for as many images and classes as Stanford Online
Products has. Needs the extra [parity]. --write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import cv2
import input_measure
import machine
import numpy as np
import page
import tensorflow_datasets as tfds
from sklearn.datasets import load_sample_images

from jaxdml.data.builders import records

CLASSES, EACH = 64, 8
PRODUCTS, PRODUCT_CLASSES = 120_053, 22_634
NAMES = {
  "ours": "jaxdml, 2 workers",
  "limit": "bare OpenCV loop, 2 processes (the limit)",
  "peer": "torch DataLoader, Pillow, 2 workers",
}


class Source:
  """Encoded images, all for training, as the source of a data set."""

  version, description, homepage, supervised, fingerprint = "1.0.0", "", "", "label", ""

  def __init__(self, name: str, encoded: list[bytes], classes: int):
    self.name, self._encoded = name, encoded
    self.features = tfds.features.FeaturesDict(
      {
        "image": tfds.features.Image(),
        "path": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=classes),
      }
    )
    self.items = [
      records.Item("train", f"{i}.jpg", {"label": i % classes}) for i in range(len(encoded))
    ]

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the images from `start` on."""
    yield from self._encoded[start:]


def photos() -> list[bytes]:
  """JPEGs like photos: parts of scikit-learn's two, enlarged a little, with a camera's noise."""
  rng, originals = np.random.default_rng(0), load_sample_images().images
  encoded = []
  for number in range(CLASSES * EACH):
    photo = originals[number % 2]
    height = int(rng.integers(320, photo.shape[0] + 1))
    width = min(height * 4 // 3, photo.shape[1])
    top = int(rng.integers(photo.shape[0] - height + 1))
    left = int(rng.integers(photo.shape[1] - width + 1))
    part = photo[top : top + height, left : left + width, ::-1]
    part = cv2.resize(part, (640, 480), interpolation=cv2.INTER_CUBIC)
    image = np.clip(part + rng.normal(0, 3, part.shape), 0, 255).astype(np.uint8)
    if number % 3 == 0:
      image = cv2.flip(image, 1)
    encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
  return encoded


def spawn(name: str, root: pathlib.Path) -> subprocess.Popen:
  """Starts a contestant; it says "ready" when its workers run."""
  here = pathlib.Path(__file__).resolve().parent
  path = os.pathsep.join(p for p in (str(here.parent), os.environ.get("PYTHONPATH")) if p)
  return subprocess.Popen(
    [sys.executable, str(here / "input_measure.py"), name, str(root)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip


def answer(process: subprocess.Popen) -> str:
  line = process.stdout.readline()
  if not line:
    raise SystemExit(f"{process.args[2]} ended with exit code {process.wait()}")
  return line.strip()


def rates(root: pathlib.Path, rounds: int, images: int) -> dict[str, list[float]]:
  """Images a second of each contestant, a figure a round."""
  processes = {name: spawn(name, root) for name in NAMES}
  try:
    for process in processes.values():
      answer(process)
    measured: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(rounds):
      for name, process in processes.items():
        process.stdin.write(f"{images}\n")
        process.stdin.flush()
        measured[name].append(images / float(answer(process)))
      shown = ", ".join(f"{name} {rate[-1]:.0f}" for name, rate in measured.items())
      print(f"round {number + 1} of {rounds}: {shown} images/s", file=sys.stderr, flush=True)
    return measured
  finally:
    for process in processes.values():
      process.stdin.close()
      process.wait()


def parse() -> argparse.Namespace:
  """The command line."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--rounds", type=int, default=15, help="turns (default: %(default)s)")
  parser.add_argument(
    "--images",
    type=int,
    default=2048,
    help="images a turn, a multiple of 64 (default: %(default)s)",
  )
  parser.add_argument("--write", action="store_true", help="replace the table in the docs")
  return parser.parse_args()


def main() -> None:
  """Measures, prints and, if asked, writes the table."""
  args = parse()
  if args.images < 1 or args.images % input_measure.BATCH:
    raise SystemExit(f"--images: expected a multiple of {input_measure.BATCH}, got {args.images}")
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    encoded = photos()
    records.write(Source("image_folder/bench", encoded, CLASSES), root)
    for i, image in enumerate(encoded):
      path = root / "files" / f"{i % CLASSES:02d}" / f"{i:04d}.jpg"
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(image)
    measured = rates(root, args.rounds, args.images)
    tiny = cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))[1].tobytes()
    records.write(Source("image_folder/products", [tiny] * PRODUCTS, PRODUCT_CLASSES), root)
    started = [json.loads(spawn("start", root).communicate()[0]) for _ in range(3)]
  middle = {name: statistics.median(rate) for name, rate in measured.items()}
  lines = ["| | images/s | least | most | jaxdml / it |", "|---|---|---|---|---|"]
  for name, rate in measured.items():
    # Turn by turn: what else runs on the machine comes and goes.
    ratios = [ours / other for ours, other in zip(measured["ours"], rate, strict=True)]
    ratio = f"{statistics.median(ratios):.2f}" if name != "ours" else ""
    figures = " | ".join(f"{value:,.0f}" for value in (middle[name], min(rate), max(rate)))
    lines.append(f"| {NAMES[name]} | {figures} | {ratio} |")
  images, classes, seconds, megabytes = sorted(started, key=lambda run: run[2])[1]
  lines += [
    "",
    f"{len(encoded)} JPEGs of {sum(map(len, encoded)) / len(encoded) / 1000:.0f} kB on average; "
    f"median of {args.rounds} turns of {args.images:,} images, batches of {input_measure.BATCH}. "
    f"Start with {images:,} images of {classes:,} classes: first batch {seconds:.2f} s after the "
    f"imports, {megabytes:.0f} MB.",
    "",
    machine.describe("grain", "opencv-python-headless", "pillow", "torch") + ".",
  ]
  table = "\n".join(lines)
  print(table)
  if args.write:
    page.write("input-pipeline", table)


if __name__ == "__main__":
  main()
