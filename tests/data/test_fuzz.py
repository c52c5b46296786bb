"""500 seeded corruptions of images and manifests: a message or the right label, never a crash.

A hang would end the process, with the place where it was.
"""

import csv
import faulthandler
import io
import json
import posixpath
import sys

import numpy as np
import pytest
from PIL import Image

from jaxdml import data
from jaxdml.data import decode
from jaxdml.prepare import image_folder, manifest, pictures, writing

assert decode._reads_heif()  # pillow-heif also writes

CHUNKS = range(5)
IMAGES = 60  # of a chunk: 300 in all
MANIFESTS = 40  # of a chunk: 200 in all
SECONDS = 120  # for a chunk, which takes about two


@pytest.fixture(autouse=True)
def ends_if_it_hangs():
  faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
  yield
  faulthandler.cancel_dump_traceback_later()


def corrupt(content, rng):
  """Returns the bytes with one kind of damage."""
  bytes_ = bytearray(content)
  at, end = sorted(rng.integers(len(bytes_) + 1, size=2))
  kind = rng.integers(8)
  if kind == 0:  # bits turned
    for place in rng.integers(len(bytes_), size=rng.integers(1, 9)):
      bytes_[place] ^= 1 << rng.integers(8)
  elif kind == 1:  # the end is missing
    del bytes_[at:]
  elif kind == 2:  # something came in between
    bytes_[at:at] = rng.bytes(rng.integers(1, 64))
  elif kind == 3:  # something is missing in between
    del bytes_[at : at + rng.integers(1, 64)]
  elif kind == 4:  # two parts changed places
    bytes_ = bytes_[end:] + bytes_[at:end] + bytes_[:at] if rng.random() < 0.3 else bytes_
    middle = (at + end) // 2
    bytes_[at:end] = bytes_[middle:end] + bytes_[at:middle]
  elif kind == 5:  # damage to the header
    place = rng.integers(min(64, len(bytes_)))
    bytes_[place : place + 4] = rng.bytes(4)
  elif kind == 6:  # a block of zeros, as from a damaged disk
    bytes_[at:end] = bytes(end - at)
  else:  # a byte is another
    bytes_[rng.integers(len(bytes_))] = rng.integers(256)
  return bytes(bytes_)


def _encoded():
  y, x = np.mgrid[:31, :45]
  picture = Image.fromarray(np.stack([5 * x, 7 * y, (x * y) % 256], -1).astype(np.uint8))
  transparent = picture.convert("RGBA")
  transparent.putalpha(Image.fromarray((x * 5).astype(np.uint8)))
  variants = [
    ("jpg", picture, {}),
    ("jpg", picture, {"progressive": True}),
    ("jpg", picture.convert("CMYK"), {}),
    ("png", picture, {}),
    ("png", transparent, {}),
    ("webp", picture, {}),
    ("webp", transparent, {"lossless": True}),
    ("avif", picture, {}),
    ("heic", picture, {}),
    ("heic", transparent, {}),
    ("gif", picture, {}),
    ("bmp", picture, {}),
    ("tif", picture, {}),
    ("tif", picture, {"compression": "tiff_lzw"}),
  ]
  for suffix, image, options in variants:
    stream = io.BytesIO()
    kind = Image.registered_extensions()[f".{suffix}"]
    image.save(stream, format=kind, **options)
    yield suffix, stream.getvalue()


@pytest.mark.parametrize("chunk", CHUNKS)
def test_corrupted_images(chunk, tmp_path, monkeypatch):
  """What passes decodes to its declared size, and is kept, unchanged, with its folder's label."""
  monkeypatch.setattr(decode, "MAX_PIXELS", 2**22)  # So that a damaged size costs little.
  valid = list(_encoded())
  root = tmp_path / "photos"
  passed = {}
  for number in range(IMAGES):
    rng = np.random.default_rng([2024, chunk, number])
    suffix, content = valid[number % len(valid)]
    content = corrupt(content, rng)
    path = f"class {number % 6}/{number}.{suffix}"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)
    try:
      pictures.check_image(content)
    except decode.ImageDecodeError as error:
      assert str(error)
      continue
    header = decode.probe(content)
    for channels in (1, 3):
      image = decode.decode(content, channels)
      assert image.dtype == np.uint8
      assert image.shape == (header.height, header.width, channels), path
    passed[path] = content
  assert 0 < len(passed) < IMAGES
  source = image_folder.source(root, "fuzz", seed=chunk)
  writing.write(source, tmp_path / "tfds", max_bad_images=1)
  kept = {}
  for split in ("train", "test"):
    dataset = data.load("tfds:image_folder/fuzz", split, data_dir=tmp_path / "tfds")
    names = dataset.label_names("label")
    for index, label in enumerate(dataset.column("label")):
      path = dataset.path(index)
      assert path.split("/")[0] == names[label]
      kept[path] = dataset.read([index])[0]
  assert kept == passed


FILES = [f"{'é' * (i % 2)}{i}.png" for i in range(12)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
  root = tmp_path_factory.mktemp("photos")
  for file in FILES:
    (root / file).write_bytes(file.encode())
  return root


def _manifest(suffix):
  rows = [
    {"path": f, "label": f'näm"e, {i % 3}', "coarse": f"c{i % 3 % 2}", "split": "train"}
    for i, f in enumerate(FILES)
  ]
  if suffix == "jsonl":
    return "\n".join(json.dumps(row, ensure_ascii=bool(i % 2)) for i, row in enumerate(rows))
  stream = io.StringIO()
  writer = csv.DictWriter(stream, rows[0], delimiter=";" if suffix == "csv" else "\t")
  writer.writeheader()
  writer.writerows(rows)
  return stream.getvalue()


def corrupt_lines(content, rng):
  """Returns the bytes with a mistake as people make them, which often leaves a valid manifest."""
  lines = content.splitlines(keepends=True)
  at, other = rng.integers(len(lines), size=2)
  kind = rng.integers(5)
  if kind == 0:
    lines[at], lines[other] = lines[other], lines[at]
  elif kind == 1:
    del lines[at]
  elif kind == 2:
    lines.insert(other, lines[at])
  elif kind == 3:
    lines[at] = lines[at].replace(str(rng.integers(3)).encode(), str(rng.integers(12)).encode())
  else:
    lines[at] = lines[at].replace(b"m", rng.choice([b"n", b'"', b"\\", b";", b"\t", b" ", b""]))
  return b"".join(lines)


def _labels(path):
  """path -> label as another reading of the manifest has it."""
  text = path.read_bytes().decode("utf-8-sig")
  if path.suffix == ".jsonl":
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    rows = [{key.strip().casefold(): row[key] for key in row} for row in rows]
  else:
    for delimiter in ",;\t":
      table = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
      table = [[cell.strip() for cell in line] for line in table if any(map(str.strip, line))]
      header = [cell.casefold() for cell in table[0]]
      if {"path", "label"} <= set(header):
        break
    rows = [dict(zip(header, line, strict=True)) for line in table[1:]]
  return {posixpath.normpath(r["path"]): manifest.clean_name(str(r["label"])) for r in rows}


@pytest.mark.parametrize("chunk", CHUNKS)
def test_corrupted_manifests(chunk, photos, tmp_path):
  """A manifest is refused with a message, or each line has the label that it gives."""
  refused = 0
  for number in range(MANIFESTS):
    rng = np.random.default_rng([2025, chunk, number])
    suffix = ("csv", "jsonl", "tsv")[number % 3]
    path = tmp_path / f"{number}.{suffix}"
    damage = corrupt_lines if number % 2 else corrupt
    path.write_bytes(damage(_manifest(suffix).encode(), rng))
    try:
      source = image_folder.source(photos, "fuzz", manifest=path)
    except manifest.ManifestError as error:
      assert str(path) in str(error) and len(str(error)) > len(str(path)) + 20
      refused += 1
      continue
    except image_folder.ImageFolderError as error:
      assert str(error)
      refused += 1
      continue
    names = source.features["label"].names
    got = {item.path: names[item.values["label"]] for item in source.items}
    assert got == _labels(path), number
  assert 0 < refused < MANIFESTS
