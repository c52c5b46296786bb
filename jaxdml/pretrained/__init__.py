"""Published weights for the encoders: converted once, checked, kept with their preprocessing."""

from jaxdml.models.base import Preprocessing
from jaxdml.pretrained.conversion import convert
from jaxdml.pretrained.files import Card, ConvertError
from jaxdml.pretrained.store import (
  WeightsError,
  check_free,
  imagenet_card,
  load,
  load_classifier,
  load_imagenet,
  logits,
  read_card,
  save,
)

__all__ = [
  "Card", "ConvertError", "Preprocessing", "WeightsError", "check_free", "convert",
  "imagenet_card", "load", "load_classifier", "load_imagenet", "logits", "read_card", "save",
]  # fmt: skip
__dir__ = lambda: __all__
