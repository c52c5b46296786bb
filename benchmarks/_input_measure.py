"""One contestant of input_pipeline.py in a process of its own, which serves images when told to.

Reads "COUNT" from stdin, prepares so many images, and prints the seconds it took.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import math
import multiprocessing
import pathlib
import random
import sys
import time
from collections.abc import Callable, Iterator

BATCH, LARGE_BATCH, SIZE, WORKERS = 64, 16, 224, 2
CLASSES, EACH = 64, 8
MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AREA, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
# Batches made while nobody asked are not to be counted: jaxdml makes 12 ahead here, torch 4.
AHEAD = 16


def batches_of(source: Iterator, batch: int) -> Callable[[int], float]:
  """Times batches of an endless source, after those that it made while nobody asked."""

  def measure(count: int) -> float:
    for _ in range(AHEAD):
      next(source)
    since = time.perf_counter()
    for _ in range(count // batch):
      next(source)
    return time.perf_counter() - since

  return measure


def ours(
  root: pathlib.Path, name: str = "bench", batch: int = BATCH, cache: str = ""
) -> Callable[[int], float]:
  """The trainer's own input: jaxdml's batches from the data set on disk."""
  from jaxdml import data

  train = data.load(f"tfds:image_folder/{name}", "train", data_dir=root)
  sampler = data.sampling.create("pk", train.column("label"), batch, 4)
  preprocess = data.preprocess.create("standard", SIZE, True, 3, cache=cache)
  options = {"label": "label", "seed": 0, "num_workers": WORKERS}
  return batches_of(data.train_batches(train, sampler, preprocess, **options), batch)


def kept(root: pathlib.Path) -> Callable[[int], float]:
  """The same with data.cache, after eight epochs: a crop may need a picture at half its size."""
  measure = ours(root, cache=str(root / "cache"))
  measure(8 * CLASSES * EACH)
  return measure


def large(root: pathlib.Path) -> Callable[[int], float]:
  """jaxdml's batches of a telephone's photos as they are."""
  return ours(root, "large", LARGE_BATCH)


def reduced(root: pathlib.Path) -> Callable[[int], float]:
  """jaxdml's batches of the same photos, prepared with --max_side."""
  return ours(root, "reduced", LARGE_BATCH)


def box(height: int, width: int) -> tuple[int, int, int, int]:
  """A random resized crop's (top, left, height, width)."""
  for _ in range(10):
    target = random.uniform(*AREA) * height * width
    aspect = math.exp(random.uniform(*map(math.log, RATIO)))
    w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
    if 0 < w <= width and 0 < h <= height:
      return random.randint(0, height - h), random.randint(0, width - w), h, w
  side = min(height, width)
  return (height - side) // 2, (width - side) // 2, side, side


_files: list[bytes] = []


def _read(root: pathlib.Path) -> None:
  import cv2

  cv2.setNumThreads(0)
  _files.extend(path.read_bytes() for path in sorted(root.glob("files/*/*.jpg")))


def _decode(count: int) -> None:
  import cv2
  import numpy as np

  for encoded in itertools.islice(itertools.cycle(_files), count):
    image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    top, left, height, width = box(*image.shape[:2])
    cv2.resize(image[top : top + height, left : left + width], (SIZE, SIZE))


def limit(root: pathlib.Path) -> Callable[[int], float]:
  """The decoder: cv2.imdecode in full and cv2.resize of a crop, from memory, a process a core."""
  context = multiprocessing.get_context("spawn")
  pool = concurrent.futures.ProcessPoolExecutor(WORKERS, context, _read, (root,))
  list(pool.map(_decode, [BATCH] * 2 * WORKERS))  # Both processes are there.

  def measure(count: int) -> float:
    since = time.perf_counter()
    # In parts, so that neither process waits long for the other.
    list(pool.map(_decode, [BATCH // 4] * (count * 4 // BATCH)))
    return time.perf_counter() - since

  return measure


class PillowFolder:
  """Files decoded and transformed as torchvision does it: crop and resize in Pillow, then torch."""

  def __init__(self, root: pathlib.Path, folder: str):
    self._paths = sorted(root.glob(f"{folder}/*/*.jpg"))

  def __len__(self) -> int:
    return len(self._paths)

  def __getitem__(self, index: int):
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(self._paths[index]) as file:
      image = file.convert("RGB")
    top, left, height, width = box(image.height, image.width)
    image = image.crop((left, top, left + width, top + height))
    image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    if random.random() < 0.5:
      image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    mean, std = (torch.tensor(v)[:, None, None] for v in MEAN_STD)
    return pixels.clone().sub_(mean).div_(std), index // 8


def peer(root: pathlib.Path, folder: str = "files", batch: int = BATCH) -> Callable[[int], float]:
  """A torch DataLoader over Pillow transforms."""
  import torch.utils.data as torch_data

  dataset = PillowFolder(root, folder)
  loader = torch_data.DataLoader(
    dataset, batch, num_workers=WORKERS, multiprocessing_context="spawn",
    sampler=torch_data.RandomSampler(dataset, replacement=True, num_samples=2**40),
  )  # fmt: skip
  return batches_of(iter(loader), batch)


def large_peer(root: pathlib.Path) -> Callable[[int], float]:
  """The same of a telephone's photos."""
  return peer(root, "large", LARGE_BATCH)


def start(root: pathlib.Path) -> None:
  """Prints images, seconds to the first batch and megabytes it took, all beyond the imports."""
  import resource

  from jaxdml import data

  pages = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  before, since = pages(), time.perf_counter()
  train = data.load("tfds:image_folder/products", "train", data_dir=root)
  sampler = data.sampling.create("pk", train.column("label"), BATCH, 2)
  preprocess = data.preprocess.create("standard", 32, True, 3)
  with data.train_batches(train, sampler, preprocess, label="label", seed=0) as batches:
    next(batches)
    seconds = time.perf_counter() - since
    megabytes = (pages() - before) * resource.getpagesize() / 2**20
  print(json.dumps([len(train), len(train.classes("label")), seconds, megabytes]))


CONTESTANTS = {
  function.__name__: function for function in (ours, kept, limit, peer, large, reduced, large_peer)
}


def main() -> None:
  name, root = sys.argv[1], pathlib.Path(sys.argv[2])
  if name == "start":
    start(root)
    return
  measure = CONTESTANTS[name](root)
  measure(2 * BATCH)
  print("ready", flush=True)
  for line in sys.stdin:
    print(measure(int(line)), flush=True)


if __name__ == "__main__":
  main()
