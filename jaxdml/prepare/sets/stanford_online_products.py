"""Stanford Online Products from Stanford_Online_Products.zip or its extracted folder."""

from pathlib import Path

from jaxdml.prepare import official
from jaxdml.prepare.official import Annotations, Count, Row
from jaxdml.prepare.source import PrepareError

_ARCHIVE = "Stanford_Online_Products.zip"
_LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
_HEADER = ["image_id", "class_id", "super_class_id", "path"]
_CLASSES = 22634
_SUPER_CLASSES = [
  *("bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle"),
  *("lamp", "mug", "sofa", "stapler", "table", "toaster"),
]


def _read(root: Path, most: int) -> Annotations:
  lists = tuple(_LISTS.values())
  part = official.open_lists(root, "stanford_online_products", _ARCHIVE, lists, most)
  rows = [row for split, name in _LISTS.items() for row in _rows(part, split, name)]
  return Annotations({"class_id": _CLASSES, "super_class_id": _SUPER_CLASSES}, rows, [part])


def _rows(part: official.Part, split: str, name: str) -> list[Row]:
  lines = part.text(name).splitlines()
  where = f"{name} in {part.files.path}"
  if not lines or lines[0].split() != _HEADER:
    begin = (lines or [""])[0]
    raise PrepareError(f"{where} begins with {begin!r}, where {' '.join(_HEADER)!r} was expected")
  rows, most = [], len(_SUPER_CLASSES)
  for line in filter(str.strip, lines[1:]):
    words = line.split(maxsplit=3)
    if len(words) != 4 or not (words[1].isdecimal() and words[2].isdecimal()):
      raise PrepareError(f"{where} has the line {line!r}; lines are {' '.join(_HEADER)}")
    fine, coarse, path = int(words[1]), int(words[2]), words[3].strip()
    if not (1 <= fine <= _CLASSES and 1 <= coarse <= most):
      rule = f"class_id is in 1..{_CLASSES} and super_class_id in 1..{most}"
      raise PrepareError(f"{where} has the line {line!r}; {rule}")
    values = {"class_id": fine - 1, "super_class_id": coarse - 1}
    rows.append(Row(split, path, values, 0, path))
  return rows


CARD = official.Card(
  name="stanford_online_products",
  version="2.0.0",  # TFDS's own is 1.x.
  help="""\
120,053 photos of 22,634 products of eBay.
Put into --source
        Stanford_Online_Products.zip, or the folder Stanford_Online_Products extracted from it
        (Ebay_train.txt, Ebay_test.txt, bicycle_final/ and 11 more folders).
People have it from https://cvgl.stanford.edu/projects/lifted_struct/.
""",
  homepage="https://cvgl.stanford.edu/projects/lifted_struct/",
  description="""\
Stanford Online Products (Song et al. 2016) with its official, class-disjoint splits: classes 1 to
11,318 train, 11,319 to 22,634 test. Encoded images as in the archive.""",
  expected={"train": Count(59551, 11318), "test": Count(60502, 11316)},
  read=_read,
  label="class_id",
)
