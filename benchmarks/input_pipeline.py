"""Images a second, from JPEGs on disk to training batches: jaxdml, the decoder alone, and torch.

  python benchmarks/input_pipeline.py            # about 6 minutes on 2 cores
  python benchmarks/input_pipeline.py --write

All prepare the same 640 x 480 JPEGs (quality 90) to 224 x 224: random resized crop, flip; jaxdml
also with data.cache, when it has seen them all. The limit decodes in full and resizes a crop with
OpenCV, from memory, in 2 processes, and does nothing else. The peer is a torch DataLoader with
Pillow transforms and 2 workers. They take turns; after each there is a pause, in which a
contestant's workers fill their queues (what they hold is not counted), and then they wait while the
others have their turns. The figures are medians of the rounds, ratios turn by turn.
Then the same with photos as large as a telephone's: jaxdml as they are and prepared with
--max_side=640, and the peer. Then the start: from `load` to the first batch for as many images and
classes as Stanford Online Products has. Needs the extra [parity]. --write puts the tables into
docs/benchmarks.md.
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
import time
from collections.abc import Iterator, Mapping

import _input_measure
import _machine
import _page
import cv2
import numpy as np
import tensorflow_datasets as tfds
from sklearn.datasets import load_sample_images

from jaxdml.prepare import source, writing

CLASSES, EACH = _input_measure.CLASSES, _input_measure.EACH
LARGE, LARGE_IMAGES, LARGE_SIZE, MAX_SIDE = 64, 256, (4032, 3024), 640
PRODUCTS, PRODUCT_CLASSES = 120_053, 22_634
NAMES = {
  "ours": "jaxdml, 2 workers",
  "kept": "jaxdml, 2 workers, `data.cache`, later epochs",
  "limit": "bare OpenCV loop, 2 processes (the limit)",
  "peer": "torch DataLoader, Pillow, 2 workers",
}
LARGE_NAMES = {
  "large": "jaxdml, 2 workers",
  "reduced": f"jaxdml, 2 workers, prepared with `--max_side={MAX_SIDE}`",
  "large_peer": "torch DataLoader, Pillow, 2 workers",
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
      source.Item("train", f"{i}.jpg", {"label": i % classes}) for i in range(len(encoded))
    ]

  def read(self, start: int) -> Iterator[bytes]:
    """Yields the images from `start` on."""
    yield from self._encoded[start:]


def photos(count: int, size: tuple[int, int]) -> list[bytes]:
  """JPEGs like photos: parts of scikit-learn's two, enlarged, with a camera's noise."""
  rng, originals = np.random.default_rng(0), load_sample_images().images
  encoded = []
  for number in range(count):
    photo = originals[number % 2]
    height = int(rng.integers(320, photo.shape[0] + 1))
    width = min(height * 4 // 3, photo.shape[1])
    top = int(rng.integers(photo.shape[0] - height + 1))
    left = int(rng.integers(photo.shape[1] - width + 1))
    part = photo[top : top + height, left : left + width, ::-1]
    part = cv2.resize(part, size, interpolation=cv2.INTER_CUBIC)
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
    [sys.executable, str(here / "_input_measure.py"), name, str(root)],
    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
  )  # fmt: skip


def answer(process: subprocess.Popen) -> str:
  line = process.stdout.readline()
  if not line:
    raise SystemExit(f"{process.args[2]} ended with exit code {process.wait()}")
  return line.strip()


def write(root: pathlib.Path, folder: str, encoded: list[bytes], classes: int) -> None:
  """Writes JPEGs as the peer reads them, in folders by class."""
  for i, image in enumerate(encoded):
    path = root / folder / f"{i % classes:02d}" / f"{i:04d}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image)


def rates(
  root: pathlib.Path, names: Mapping[str, str], rounds: int, images: int, pause: float
) -> dict[str, list[float]]:
  """Images a second of each contestant, a figure a round."""
  processes = {name: spawn(name, root) for name in names}
  try:
    for process in processes.values():
      answer(process)
    time.sleep(pause)
    measured: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
      for name, process in processes.items():
        process.stdin.write(f"{images}\n")
        process.stdin.flush()
        measured[name].append(images / float(answer(process)))
        time.sleep(pause)
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
  parser.add_argument("--rounds", type=int, default=11, help="turns (default: %(default)s)")
  parser.add_argument(
    "--images",
    type=int,
    default=2048,
    help="images a turn, a multiple of 64 (default: %(default)s)",
  )
  parser.add_argument(
    "--tiny",
    action="store_true",
    help="small photos and few products, and no peer without torch: shows only that it runs",
  )
  parser.add_argument("--write", action="store_true", help="replace the table in the docs")
  return parser.parse_args()


def table(names: Mapping[str, str], measured: Mapping[str, list[float]]) -> list[str]:
  """A row for each contestant; the first and the second beside each of the others."""
  one, two = list(names)[:2]
  lines = [
    "| | images/s | least | most | first row / it | second row / it |",
    "|---|---|---|---|---|---|",
  ]
  for name, rate in measured.items():
    # Turn by turn: what else runs on the machine comes and goes.
    ratios = [
      "" if name in (one, mine) else
      f"{statistics.median(a / b for a, b in zip(measured[mine], rate, strict=True)):.2f}"
      for mine in (one, two)
    ]  # fmt: skip
    figures = [f"{value:,.0f}" for value in (statistics.median(rate), min(rate), max(rate))]
    lines.append(f"| {' | '.join([names[name], *figures, *ratios])} |")
  return lines


def main() -> None:
  """Measures, prints and, if asked, writes the tables."""
  args = parse()
  if args.images < 1 or args.images % _input_measure.BATCH:
    raise SystemExit(f"--images: expected a multiple of {_input_measure.BATCH}, got {args.images}")
  names, large_names, pause = NAMES, LARGE_NAMES, (2, 5)
  size, large_size, products = (640, 480), LARGE_SIZE, (PRODUCTS, PRODUCT_CLASSES)
  if args.tiny:
    size, large_size, products, pause = (64, 48), (80, 60), (600, 200), (0, 0)
    if not _machine.installed("torch"):
      names = {name: text for name, text in names.items() if name != "peer"}
      large_names = {name: text for name, text in large_names.items() if name != "large_peer"}
  with tempfile.TemporaryDirectory() as folder:
    root = pathlib.Path(folder)
    encoded = photos(CLASSES * EACH, size)
    writing.write(Source("image_folder/bench", encoded, CLASSES), root)
    write(root, "files", encoded, CLASSES)
    measured = rates(root, names, args.rounds, args.images, pause[0])
    telephone = photos(LARGE, large_size)
    large = Source("image_folder/large", telephone, LARGE // 4)
    writing.write(large, root)
    large.name = "image_folder/reduced"
    writing.write(large, root, max_side=MAX_SIDE)
    write(root, "large", telephone, LARGE // 4)
    rounds = max(args.rounds // 5, 1)
    measured_large = rates(root, large_names, rounds, LARGE_IMAGES, pause[1])
    tiny = cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))[1].tobytes()
    writing.write(Source("image_folder/products", [tiny] * products[0], products[1]), root)
    started = [json.loads(spawn("start", root).communicate()[0]) for _ in range(3)]
  images, classes, seconds, megabytes = sorted(started, key=lambda run: run[2])[1]
  torch = ("torch",) if "peer" in names else ()
  kilobytes = [sum(map(len, files)) / len(files) / 1000 for files in (encoded, telephone)]
  lines = [
    *table(names, measured),
    "",
    f"{len(encoded)} JPEGs of {kilobytes[0]:.0f} kB on average; median of {args.rounds} turns of "
    f"{args.images:,} images, batches of {_input_measure.BATCH}. Start with {images:,} images of "
    f"{classes:,} classes: first batch {seconds:.2f} s after the imports, {megabytes:.0f} MB.",
    "",
    f"{LARGE} JPEGs of {large_size[0]} x {large_size[1]} pixels, {kilobytes[1]:,.0f} kB on "
    f"average, {rounds} turns of {LARGE_IMAGES} images:",
    "",
    *table(large_names, measured_large),
    "",
    _machine.describe("grain", "opencv-python-headless", "pillow", *torch) + ".",
  ]
  text = "\n".join(lines)
  print(text)
  if args.write and not args.tiny:
    _page.write("input-pipeline", text)


if __name__ == "__main__":
  main()
