"""CUB-200-2011 from CUB_200_2011.tgz or its extracted folder."""

from pathlib import Path

from jaxdml._text import few
from jaxdml.prepare import official
from jaxdml.prepare.official import Annotations, Count, Row
from jaxdml.prepare.source import PrepareError

_TRAIN_CLASSES = 100
_LISTS = ("images.txt", "image_class_labels.txt", "classes.txt")


def _read(root: Path, most: int) -> Annotations:
  part = official.open_lists(root, "cub200_2011", "CUB_200_2011.tgz", _LISTS, most)
  path = part.files.path
  images, labels, classes = (_numbered(part, name) for name in _LISTS)
  if list(classes) != list(range(1, len(classes) + 1)):
    raise PrepareError(f"classes.txt in {path} does not number its classes 1, 2, 3...")
  annotations = f"image_class_labels.txt in {path}"
  if without := [file for number, file in images.items() if number not in labels]:
    raise PrepareError(f"{annotations} has no label for {len(without)} images: {few(without)}")
  rows = []
  for number, file in images.items():
    label = labels[number]
    if not label.isdecimal() or int(label) not in classes:
      wrong = f"gives {file} the class {label!r}, which is not in classes.txt"
      raise PrepareError(f"{annotations} {wrong}")
    split = "train" if int(label) <= _TRAIN_CLASSES else "test"
    rows.append(Row(split, file, {"label": int(label) - 1}, 0, f"images/{file}"))
  return Annotations({"label": list(classes.values())}, rows, [part])


def _numbered(part: official.Part, name: str) -> dict[int, str]:
  """Reads lines "NUMBER VALUE"."""
  found: dict[int, str] = {}
  for line in filter(str.strip, part.text(name).splitlines()):
    number, _, value = line.strip().partition(" ")
    if not number.isdecimal() or not value or int(number) in found:
      rule = "lines are NUMBER VALUE, and each number comes once"
      raise PrepareError(f"{name} in {part.files.path} has the line {line!r}; {rule}")
    found[int(number)] = value.strip()
  return found


CARD = official.Card(
  name="cub200_2011",
  version="1.0.0",
  help="""\
11,788 photos of 200 bird species.
Put into --source
        CUB_200_2011.tgz, or the folder CUB_200_2011 extracted from it
        (images/, images.txt, image_class_labels.txt, classes.txt).
People have it from https://data.caltech.edu/records/65de6-vp158 (no segmentations needed).
""",
  homepage="https://www.vision.caltech.edu/datasets/cub_200_2011/",
  description="""\
Caltech-UCSD Birds-200-2011 (Wah et al. 2011), divided by class: both official splits joined,
classes 1 to 100 train, 101 to 200 test. Encoded images as in the archive; bounding boxes are not
used.""",
  expected={"train": Count(5864, 100), "test": Count(5924, 100)},
  read=_read,
)
