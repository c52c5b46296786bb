"""Flax linen encoders (images to features) and HDML's autoencoder around the metric space.

`create(name)` makes a registered encoder, or one of your own named "package.module:factory".
`Encoder` is the base of them all.
"""

import importlib
import pkgutil

from jaxdml.models.autoencoder import Embedding, Generator, SoftmaxHead
from jaxdml.models.base import (
  ENCODERS,
  Encoder,
  Preprocessing,
  Published,
  create,
  published_encoders,
  register,
)
from jaxdml.models.bn_inception import BNInception
from jaxdml.models.convnet import ConvNet
from jaxdml.models.convnext import ConvNeXt
from jaxdml.models.efficientnet import EfficientNetLite
from jaxdml.models.functions import from_functions
from jaxdml.models.googlenet import GoogLeNet, GoogLeNetBN
from jaxdml.models.layers import BatchNorm, Pooling, count_parameters
from jaxdml.models.resnet import ResNet, ResNet18, ResNet50
from jaxdml.models.vit import ViT
from jaxdml.models.vit_published import DinoV2S14, ViTB16, ViTS16

__all__ = [
  "ENCODERS", "BNInception", "BatchNorm", "ConvNeXt", "ConvNet", "DinoV2S14", "EfficientNetLite",
  "Embedding", "Encoder", "Generator", "GoogLeNet", "GoogLeNetBN", "Pooling", "Preprocessing",
  "Published", "ResNet", "ResNet18", "ResNet50", "SoftmaxHead", "ViT", "ViTB16", "ViTS16",
  "count_parameters", "create", "from_functions", "published_encoders", "register",
]  # fmt: skip
__dir__ = lambda: __all__

# Each module of this package registers its encoders where it defines them, so that a new family is
# one new file: it is found here and named nowhere else.
for _found in pkgutil.iter_modules(__path__):
  importlib.import_module(f"{__name__}.{_found.name}")
