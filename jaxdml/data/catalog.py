"""Public data sets by name, and advice for a name that cannot be loaded."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from jaxdml._text import few
from jaxdml.errors import JaxdmlError


class DatasetNotPreparedError(JaxdmlError):
  """The data set is not on this machine; the message says where it was sought and what makes it."""


@dataclasses.dataclass(frozen=True)
class Rule:
  """Division of a public data set, by which no test class is seen in training.

  It is for the layouts that TFDS makes; what `jaxdml prepare` writes is divided already. Labels
  below `train_classes` train, the rest test, over all splits joined; None where the splits have no
  class in common. Where only TFDS makes it under this name, `by_tfds` can be prepared instead.
  `classes` is how many train, either way.
  """

  label: str = "label"
  train_classes: int | None = None
  by_tfds: str | None = None
  classes: int | None = None


PUBLIC: dict[str, Rule] = {
  "cars196": Rule(train_classes=98, classes=98),
  "cub200_2011": Rule(train_classes=100, classes=100),
  "caltech_birds2011": Rule(train_classes=100, by_tfds="cub200_2011", classes=100),
  "stanford_online_products": Rule(label="class_id", classes=11318),
  "inshop": Rule(classes=3997),
}
"""Public data sets and the class-disjoint split that papers use; known before they are prepared."""

IMAGE_FOLDER = "image_folder/"  # Names of people's own photos begin with it.
_SHOWN = 20


def _prepare(name: str, root: Path, source: str) -> str:
  first, _, config = name.partition("/")
  option = f" --name={config}" if config else ""
  return f"jaxdml prepare {first} --source={source}{option} --data_dir={root}"


def what_there_is(name: str, prepared: Sequence[str], others: Sequence[str] = ()) -> str:
  """Lists what is prepared, and names the nearest to one that cannot be loaded, of `others` too.

  >>> what_there_is("image_folder/gardn", ["digits", "image_folder/garden"])
  "Prepared there: digits, image_folder/garden; did you mean 'image_folder/garden'?"
  """
  # Where it comes from is the same for many, or forgotten: it says nothing about the name.
  short = lambda name: name.removeprefix("tfds:").removeprefix(IMAGE_FOLDER).casefold()
  by_short = {short(other): other for other in (*others, *prepared) if other != name}
  near = difflib.get_close_matches(short(name), by_short, 1)
  shown = few(prepared, _SHOWN)
  text = f"Prepared there: {shown}" if prepared else "Nothing is prepared there"
  return f"{text}; did you mean {by_short[near[0]]!r}?" if near else f"{text}."


def how_to_prepare(name: str, root: Path, prepared: Sequence[str] = ()) -> str:
  """Returns the message for someone who asked for a data set that is not in the data directory."""
  tfds_name = name.removeprefix("tfds:")
  text = (
    f"Data set {tfds_name!r} is not prepared in {root} (no {tfds_name}/<version>/dataset_info.json "
    f"there). {what_there_is(name, prepared)} Another place is chosen by data_dir or the "
    "environment variable TFDS_DATA_DIR. "
  )
  if tfds_name.startswith(IMAGE_FOLDER):
    return f"{text}To prepare it, run: {_prepare(tfds_name, root, 'FOLDER_WITH_THE_PHOTOS')}"
  rule = PUBLIC.get(tfds_name)
  if rule is not None and rule.by_tfds is None:
    return (
      f"{text}To prepare it, put its archives into a directory, as downloaded or extracted (jaxdml "
      f"prepare {tfds_name} --help names them, and where people have them from), and run, without "
      f"network or TensorFlow: {_prepare(tfds_name, root, 'THAT_DIRECTORY')}"
    )
  if rule is not None:
    text += (
      f"This is TFDS's own layout of {rule.by_tfds}, which needs fewer archives: load that, after "
      f"{_prepare(rule.by_tfds, root, 'DIRECTORY_WITH_THEM')} . Or: "
    )
  return (
    f"{text}To prepare it, run on any machine with TensorFlow (pip install tensorflow "
    "tensorflow-datasets) and a network, then copy the directory: "
    f"tfds build {tfds_name} --file_format=array_record --data_dir={root}"
  )


def how_to_convert(name: str, directory: Path, formats: Sequence[str]) -> str:
  """Returns the message for someone whose data set is in `formats`, without random access."""
  tfds_name = name.removeprefix("tfds:")
  text = (
    f"Data set {tfds_name!r} is in {directory}, but as {', '.join(formats)}, which gives no random "
    "access. Convert it, on a machine with TensorFlow, with: tfds convert_format "
    f"--dataset_version_dir={directory} --out_file_format=array_record"
  )
  rule = PUBLIC.get(tfds_name)
  if rule is not None and rule.by_tfds is None:
    again = _prepare(tfds_name, directory.parents[1], "DIRECTORY")
    text += f" . Or make it anew from its archives: {again}"
  return text
