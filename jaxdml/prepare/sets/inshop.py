"""In-Shop Clothes Retrieval (DeepFashion) from img.zip and list_eval_partition.txt."""

from pathlib import Path

from jaxdml._text import few
from jaxdml.prepare import official
from jaxdml.prepare.official import Annotations, Count, Row
from jaxdml.prepare.source import PrepareError, small_file

_SPLITS = ("train", "query", "gallery")
_COUNTS = ((25882, 3997), (14218, 3985), (12612, 3985))  # images, classes
_LIST = "list_eval_partition.txt"
_HEADER = ["image_name", "item_id", "evaluation_status"]


def _read(root: Path, most: int) -> Annotations:
  images, listed = official.find_part(root, "img"), official.find(root, _LIST)
  if images is None or listed is None:
    found = {"img.zip": images is not None, _LIST: listed is not None}
    raise official.missing_files("inshop", root, [found])
  table = _read_list(listed, small_file(listed, most))
  items, kinds = {item for _, item, _, _ in table}, {kind for *_, kind in table}
  names = {"label": sorted(items), "category": sorted(kinds)}
  label, category = ({name: i for i, name in enumerate(own)} for own in names.values())
  part = official.open_part(images, "img", most)
  rows = [
    Row(split, path, {"label": label[item], "category": category[kind]}, 0, path[len("img/") :])
    for path, item, split, kind in table
  ]
  return Annotations(names, rows, [part])


def _read_list(path: Path, content: bytes) -> list[tuple[str, str, str, str]]:
  """Returns (image, item, split, category) of each line; training and test share no item."""
  try:
    lines = content.decode("utf-8-sig").splitlines()
  except UnicodeDecodeError as error:
    raise PrepareError(f"{path} is no UTF-8 text: {error}") from error
  if len(lines) < 2 or not lines[0].strip().isdecimal() or lines[1].split() != _HEADER:
    raise PrepareError(
      f"{path} begins with {lines[:2]!r}, where the number of images and then "
      f"{' '.join(_HEADER)!r} were expected (CelebA has a list of the same name)"
    )
  table = []
  for line in filter(str.strip, lines[2:]):
    words = line.split()
    if len(words) != 3 or words[2] not in _SPLITS:
      raise PrepareError(f"{path} has the line {line!r}; lines are {' '.join(_HEADER)}")
    parts = words[0].split("/")
    if len(parts) != 5 or parts[0] != "img":
      rule = "img/DEPARTMENT/KIND/ITEM/FILE was expected"
      raise PrepareError(f"{path} names {words[0]!r}, where {rule}")
    table.append((words[0], words[1], words[2], "/".join(parts[1:3])))  # as "WOMEN/Dresses"
  if len(table) != int(lines[0]):
    said = f"says that it lists {int(lines[0]):,} images and lists {len(table):,}"
    raise PrepareError(f"{path} {said}: truncated?")
  of_split = {split: {item for _, item, s, _ in table if s == split} for split in _SPLITS}
  if shared := sorted(of_split["train"] & (of_split["query"] | of_split["gallery"])):
    raise PrepareError(f"{path} has items in training and in test: {few(shared)}")
  return table


CARD = official.Card(
  name="inshop",
  version="1.0.0",
  help="""\
52,712 photos of 7,982 clothes, with queries and a gallery.
Put into --source
        img.zip, or the folder img extracted from it, and list_eval_partition.txt
        (they may be in its folders Img/ and Eval/, as they come).
People have it from
https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html.
""",
  homepage="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
  description="""\
In-Shop Clothes Retrieval of DeepFashion (Liu et al. 2016) with its official, class-disjoint splits:
train, and for testing query and gallery, which share their classes. Encoded images as in the
archive. label: item; category: department and kind of clothing, from the path.""",
  expected={k: Count(*n) for k, n in zip(_SPLITS, _COUNTS, strict=True)},
  read=_read,
)
