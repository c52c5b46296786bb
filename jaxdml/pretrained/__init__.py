"""Published weights for the encoders: converted once, checked, kept with their preprocessing."""

from jaxdml.pretrained.card import Card as Card
from jaxdml.pretrained.card import Preprocessing as Preprocessing
from jaxdml.pretrained.checkpoint import WeightsError as WeightsError
from jaxdml.pretrained.checkpoint import load as load
from jaxdml.pretrained.checkpoint import load_classifier as load_classifier
from jaxdml.pretrained.checkpoint import read_card as read_card
from jaxdml.pretrained.imagenet import imagenet_card as imagenet_card
from jaxdml.pretrained.imagenet import load_imagenet as load_imagenet
from jaxdml.pretrained.mapping import ConvertError as ConvertError
from jaxdml.pretrained.mapping import logits as logits

__all__ = [
  "Card",
  "ConvertError",
  "Preprocessing",
  "WeightsError",
  "imagenet_card",
  "load",
  "load_classifier",
  "load_imagenet",
  "logits",
  "read_card",
]
