"""Writes tiny archives in the official layout of each public data set, for tests.

    photos = official.write_cub(tmp_path / "source")
    commands.main(["prepare", "cub200_2011", f"--source={tmp_path / 'source'}",
                   f"--data_dir={tmp_path}", "--allow_partial"])

Every writer takes the same arguments and returns the photos, in the order of the annotations.
"""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from scipy import io as scipy_io

from jaxdml import commands, data


class Photo(NamedTuple):
  """What should come out: split and label as `jaxdml.data` has them, and the bytes."""

  path: str
  split: str
  label: int
  encoded: bytes


def jpeg(number, size=(32, 40)):
  """A JPEG whose pixels depend on `number` alone; the red channel is its last byte."""
  rng = np.random.default_rng(number)
  noise = rng.integers(0, 64, (*size, 3), dtype=np.uint8)
  noise[..., 2] = number % 256
  return cv2.imencode(".jpg", noise)[1].tobytes()


def pack(path, files):
  """Writes an archive: {name: bytes} as .zip, or as .tgz or .tar in this order; equal each time."""
  path.parent.mkdir(parents=True, exist_ok=True)
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w") as archive:
      for name, content in files.items():
        archive.writestr(zipfile.ZipInfo(name), content)
    return
  with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
    for name, content in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def unpack(folder, files):
  """Writes the files into a folder, as an extracted archive."""
  for name, content in files.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)


def _put(root, archive, files, extracted):
  if extracted:
    unpack(root, files)
  else:
    pack(root / archive, files)


def _mat(**variables):
  file = io.BytesIO()
  scipy_io.savemat(file, variables, oned_as="row")
  return file.getvalue()


def _structs(**columns):
  """A MATLAB struct array with these fields."""
  table = np.empty(len(next(iter(columns.values()))), [(name, object) for name in columns])
  for name, values in columns.items():
    table[name] = values
  return table


def _names(count):
  return np.array([f"Maker Model {i} 2012" for i in range(1, count + 1)], object)


def _classes(first_test, count):
  """The classes, from 1 on, next to the border between training and test."""
  return [*range(first_test - count, first_test + count)]


def _shuffled(files):
  """The same files in another order: archives are not in the order of the annotations."""
  order = np.random.default_rng(0).permutation(len(files))
  names = list(files)
  return {names[i]: files[names[i]] for i in order}


def write_cars(root, *, classes=4, images=3, extracted=False):
  """car_ims.tgz and cars_annos.mat; `classes` of each of train and test, `images` of each."""
  photos = []
  for label in _classes(99, classes):
    for _ in range(images):
      path = f"car_ims/{len(photos) + 1:06d}.jpg"
      split = "train" if label <= 98 else "test"
      photos.append(Photo(path, split, label - 1, jpeg(len(photos))))
  n = len(photos)
  annotations = _structs(
    relative_im_path=[photo.path for photo in photos],
    **{f"bbox_{side}": [1] * n for side in ("x1", "y1", "x2", "y2")},
    **{"class": [photo.label + 1 for photo in photos], "test": [i % 2 for i in range(n)]},
  )
  content = _mat(annotations=annotations, class_names=_names(196))
  unpack(root, {"cars_annos.mat": content})
  files = {photo.path: photo.encoded for photo in photos}
  _put(root, "car_ims.tgz", _shuffled(files), extracted)
  return photos


def write_cars_devkit(root, *, classes=4, images=3, extracted=False):
  """cars_train.tgz, cars_test.tgz, car_devkit.tgz and cars_test_annos_withlabels.mat."""
  photos, files, annotations = [], {}, {}
  for folder in ("cars_train", "cars_test"):
    files[folder], labels = {}, []
    # The classes of each official split are all there are; its images are numbered from 1 on.
    for label in _classes(99, classes):
      for _ in range(images if folder == "cars_train" else 1):
        path = f"{folder}/{len(labels) + 1:05d}.jpg"
        split = "train" if label <= 98 else "test"
        photos.append(Photo(path, split, label - 1, jpeg(len(photos))))
        files[folder][path] = photos[-1].encoded
        labels.append(label)
    n = len(labels)
    table = _structs(
      **{f"bbox_{side}": [1] * n for side in ("x1", "y1", "x2", "y2")},
      **{"class": labels, "fname": [path.rpartition("/")[2] for path in files[folder]]},
    )
    annotations[folder] = _mat(annotations=table)
    _put(root, f"{folder}.tgz", _shuffled(files[folder]), extracted)
  kit = {
    "devkit/README.txt": b"about",
    "devkit/cars_meta.mat": _mat(class_names=_names(196)),
    "devkit/cars_train_annos.mat": annotations["cars_train"],
  }
  _put(root, "car_devkit.tgz", kit, extracted)
  unpack(root, {"cars_test_annos_withlabels.mat": annotations["cars_test"]})
  return photos


def write_cub(root, *, classes=4, images=3, extracted=False):
  """CUB_200_2011.tgz."""
  photos = []
  for label in _classes(101, classes):
    for _ in range(images):
      number = len(photos) + 1
      path = f"{label:03d}.Bird_{label}/Bird_{label}_{number:04d}_{number}.jpg"
      split = "train" if label <= 100 else "test"
      photos.append(Photo(path, split, label - 1, jpeg(number)))
  lines = {
    "images.txt": [f"{i} {photo.path}" for i, photo in enumerate(photos, 1)],
    "image_class_labels.txt": [f"{i} {photo.label + 1}" for i, photo in enumerate(photos, 1)],
    "classes.txt": [f"{i} {i:03d}.Bird_{i}" for i in range(1, 201)],
    "train_test_split.txt": [f"{i} {i % 2}" for i in range(1, len(photos) + 1)],
  }
  files = {f"CUB_200_2011/images/{photo.path}": photo.encoded for photo in photos}
  files |= {f"CUB_200_2011/{name}": ("\n".join(v) + "\n").encode() for name, v in lines.items()}
  files["attributes.txt"] = files["CUB_200_2011/attributes.txt"] = b"1 has_bill_shape::curved\n"
  _put(root, "CUB_200_2011.tgz", _shuffled(files), extracted)
  return photos


def write_sop(root, *, classes=4, images=3, extracted=False):
  """Stanford_Online_Products.zip."""
  photos, files = [], {}
  for split, first in (("train", 1), ("test", 11319)):
    lines = ["image_id class_id super_class_id path"]
    for label in range(first, first + classes):
      coarse, folder = ((1, "bicycle_final"), (12, "toaster_final"))[label % 2]
      for view in range(images):
        path = f"{folder}/{110000000000 + label}_{view}.JPG"
        photos.append(Photo(path, split, label - 1, jpeg(len(photos))))
        files[f"Stanford_Online_Products/{path}"] = photos[-1].encoded
        lines.append(f"{len(photos)} {label} {coarse} {path}")
    files[f"Stanford_Online_Products/Ebay_{split}.txt"] = ("\n".join(lines) + "\n").encode()
  files["__MACOSX/Stanford_Online_Products/._Ebay_train.txt"] = b"Mac OS X"
  _put(root, "Stanford_Online_Products.zip", _shuffled(files), extracted)
  return photos


def write_inshop(root, *, classes=4, images=4, extracted=False):
  """img.zip and list_eval_partition.txt; every second test image is a query."""
  photos = []
  for number in range(2 * classes):
    kind = ("WOMEN/Dresses", "MEN/Denim")[number % 2]
    for view in range(1, images + 1):
      path = f"img/{kind}/id_{number + 1:08d}/{view:02d}_1_front.jpg"
      split = "train" if number < classes else ("query", "gallery")[view % 2]
      photos.append(Photo(path, split, number, jpeg(len(photos))))
  lines = [f"{photo.path:<60} {photo.path.split('/')[3]} {photo.split}" for photo in photos]
  header = [str(len(lines)), "image_name item_id evaluation_status"]
  unpack(root, {"list_eval_partition.txt": ("\n".join(header + lines) + "\n").encode()})
  files = {photo.path: photo.encoded for photo in photos}
  _put(root, "img.zip", _shuffled(files), extracted)
  return photos


WRITERS = {
  "cars196": write_cars,
  "cub200_2011": write_cub,
  "stanford_online_products": write_sop,
  "inshop": write_inshop,
}
"""Data set -> what writes its (first) official form."""


LABELS = {
  "cars196": "label",
  "cub200_2011": "label",
  "stanford_online_products": "class_id",
  "inshop": "label",
}


def run(name, root, *options):
  """The exit status of `prepare` from root/source to root/tfds."""
  paths = [f"--source={root / 'source'}", f"--data_dir={root / 'tfds'}"]
  return commands.main(["prepare", name, *paths, *options])


def check(name, root, photos):
  """The prepared data set has these photos, byte for byte, with their labels and splits."""
  for split in ("train", "test"):
    part = data.load(name, split, data_dir=root / "tfds")
    expected = {p.path: p for p in photos if (p.split == "train") == (split == "train")}
    assert part.default_label == LABELS[name] and len(part) == len(expected)
    found = part.read(range(len(part)))
    for i, encoded in enumerate(found):
      photo = expected.pop(part.path(i))
      assert encoded == photo.encoded
      assert part.labels[LABELS[name]][i] == photo.label
    assert not expected


def move(root, *pairs):
  """Moves paths below root, (old, new) each."""
  for old, new in pairs:
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(root / old, root / new)


def prepare(name, root, **options):
  """Writes the archives below `root` and prepares them there; returns (data_dir, photos)."""
  root = Path(root)
  photos = WRITERS[name](root / "source", **options)
  assert run(name, root, "--allow_partial") == 0
  return root / "tfds", photos
