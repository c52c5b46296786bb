"""Images of records: read, preprocessed, kept where they are few, replaced where they fail."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from jaxdml._text import printable
from jaxdml.data import workers
from jaxdml.data.datasets import Dataset
from jaxdml.data.decode import ImageDecodeError

PreprocessFn = Callable[[bytes, np.random.Generator], np.ndarray]
"""Encoded image and generator -> image [h, w, c]."""

# Decoded images are kept in memory if the whole data set fits in this many bytes, per process.
CACHE_BYTES = 256 * 2**20
MAX_BAD_IMAGES = 0.01
"""By default, the share of a data set's images that may fail to decode."""
_STREAM = 0xA06  # Keeps the augmentation's random numbers apart from those of the sampler.
_SHOWN = 5


class SlotRngs:
  """The generators that augment the slots of one global batch, a stream of its own for each.

  One generator object is set to the start of the slot's stream again and again, which costs a fifth
  of making one: use each before asking for the next.
  """

  def __init__(self, seed: int, step: int):
    key = np.array([seed & (2**64 - 1), _STREAM], np.uint64)
    self._bits = np.random.Philox(key=key)
    self._rng = np.random.Generator(self._bits)
    self._state = self._bits.state  # Its buffer is empty: nothing was drawn.
    self._step = step

  def at(self, slot: int) -> np.random.Generator:
    """Returns the generator at the start of the slot's stream."""
    self._state["state"]["counter"][:] = (0, slot, self._step, 0)
    self._bits.state = self._state
    return self._rng


class BadImages:
  """Counts the distinct images of a data set that could not be decoded, and says when it is enough.

  `reasons` has, for each record in the order in which they were met, which it is and why.
  """

  def __init__(self, dataset: Dataset, max_share: float = MAX_BAD_IMAGES):
    """Lets a share of the images fail, in [0, 1); 0 stops at the first."""
    if not 0 <= max_share < 1:
      raise ValueError(f"data.max_bad_images must be a share in [0, 1), got {max_share}")
    self.reasons: dict[int, str] = {}
    self._dataset, self._share = dataset, max_share

  def __len__(self) -> int:
    return len(self.reasons)

  def add(self, reasons: Mapping[int, str], instead: str) -> None:
    """Counts images, names the first on stderr; `instead` says what becomes of them.

    ImageDecodeError if more than the share failed.
    """
    first = not self.reasons and reasons
    self.reasons.update(reasons)
    total = len(self._dataset)
    self.check(len(self.reasons))
    if first:
      most = f"data.max_bad_images={self._share:g} of {total}"
      which = printable(f"{next(iter(reasons.values()))}; {instead}")
      tqdm.write(f"cannot decode {which}. Further ones are counted, up to {most}", file=sys.stderr)

  def check(self, count: int) -> None:
    """Raises ImageDecodeError if so many are more than the share: this host's, or all hosts'."""
    total = len(self._dataset)
    if count > self._share * total:
      shown = list(self.reasons.values())[:_SHOWN]
      more = count - len(shown)
      shown += [f"and {more} more"] if more else []
      what = f"{count} of {total} images cannot be decoded, more than"
      rule = (
        f"data.max_bad_images={self._share:g} of them; mend or remove them, or raise that share"
      )
      raise ImageDecodeError("\n".join([f"{what} {rule}:", *shown]))


class Loaded(NamedTuple):
  """Images of some records."""

  image: np.ndarray  # [size, h, w, c]
  index: np.ndarray  # int32 [n], the record that is shown
  good: np.ndarray  # bool [n], false where the record asked for could not be decoded
  reasons: dict[int, str]  # the records that could not be decoded -> which they are, and why


class Images:
  """Reads and preprocesses records; keeps decoded images of small data sets in memory.

  Of a `preprocess.Preprocess` the part without randomness is kept. With `labels`, the class of each
  record [n], another image of the class stands in for one that cannot be decoded: the next in the
  order of records that can, whoever asks; None leaves such slots empty.
  """

  def __init__(self, dataset: Dataset, preprocess_fn: PreprocessFn, labels: np.ndarray | None):
    self._dataset, self._labels = dataset, labels
    self._load = getattr(preprocess_fn, "load", None)
    self._transform = preprocess_fn if self._load is None else preprocess_fn.transform
    self._shape = getattr(preprocess_fn, "shape", None)
    self._kept: dict[int, np.ndarray] = {}
    self._keep: bool | None = None if self._load is not None else False
    self._reasons: dict[int, str] = {}
    self._stand_ins: dict[int, tuple[int, dict[int, str]]] = {}

  def __getstate__(self) -> dict[str, Any]:
    # Decoded images are not sent to the workers, which keep their own.
    return {**self.__dict__, "_kept": {}}

  def __call__(
    self, indices: np.ndarray, rngs: SlotRngs, slots: Sequence[int], size: int | None = None
  ) -> Loaded:
    """Returns the images of the records [n], each augmented by the generator of its slot [n].

    `image` has `size` rows, n by default, with 0 behind the n-th. ImageDecodeError if no image of a
    class can be decoded.
    """
    index = np.array(indices, np.int32)
    wanted = index.tolist()
    good = np.ones(len(wanted), bool)
    reasons: dict[int, str] = {}
    size = len(wanted) if size is None else size
    batch = None if self._shape is None else workers.empty((size, *self._shape), np.uint8)
    try:
      for place, (record, slot) in enumerate(zip(wanted, slots, strict=True)):
        image = self._image(record, rngs.at(slot))
        if image is None:
          good[place] = False
          reasons[record] = self._reasons[record]
          if self._labels is None:
            continue
          index[place], image, more = self._stand_in(record, rngs, slot)
          reasons.update(more)
        if batch is None:
          batch = workers.empty((size, *image.shape), image.dtype)
        batch[place] = image
      if batch is None:
        raise ImageDecodeError(f"of a whole batch no image, the first being {reasons[wanted[0]]}")
      batch[len(wanted) :] = 0
      if self._labels is None:
        batch[: len(wanted)][~good] = 0
    except BaseException:
      workers.discard(batch)
      raise
    return Loaded(batch, index, good, reasons)

  def _image(self, record: int, rng: np.random.Generator) -> np.ndarray | None:
    """The image of one record, None if it cannot be decoded."""
    if record in self._reasons:
      return None
    try:
      image = self._kept.get(record)
      if image is None:
        # One at a time: it is decoded while the processor's cache holds it.
        (encoded,) = self._dataset.read([record])
        if self._load is None:
          return self._transform(encoded, rng)
        image = self._load(encoded)
        if self._keep is None:
          self._keep = image.nbytes * len(self._dataset) <= CACHE_BYTES
        if self._keep:
          self._kept[record] = image
      return self._transform(image, rng)
    except ImageDecodeError as error:
      self._reasons[record] = f"{self._dataset.describe(record)}: {error}"
      return None

  def _stand_in(
    self, record: int, rngs: SlotRngs, slot: int
  ) -> tuple[int, np.ndarray, dict[int, str]]:
    """The next record of the class that can be decoded, its image, and those met that cannot."""
    if record in self._stand_ins:
      other, met = self._stand_ins[record]
      return other, self._image(other, rngs.at(slot)), met
    members = np.flatnonzero(self._labels == self._labels[record]).tolist()
    start = members.index(record)
    met: dict[int, str] = {}
    for other in [*members[start + 1 :], *members[:start]]:
      image = self._image(other, rngs.at(slot))
      if image is not None:
        self._stand_ins[record] = other, met
        return other, image, met
      met[other] = self._reasons[other]
    what = f"no image of class {self._labels[record]} can be decoded ({len(members)} in all)"
    raise ImageDecodeError(f"{what}, the first asked for being {self._reasons[record]}")
