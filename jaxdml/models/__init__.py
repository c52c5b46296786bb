"""Flax linen encoders (images to features) and HDML's autoencoder around the metric space."""

from jaxdml.models.autoencoder import Embedding as Embedding
from jaxdml.models.autoencoder import Generator as Generator
from jaxdml.models.autoencoder import SoftmaxHead as SoftmaxHead
from jaxdml.models.blocks import BatchNorm as BatchNorm
from jaxdml.models.blocks import count_parameters as count_parameters
from jaxdml.models.bn_inception import BNInception as BNInception
from jaxdml.models.convnet import ConvNet as ConvNet
from jaxdml.models.efficientnet import EfficientNetLite as EfficientNetLite
from jaxdml.models.googlenet import GoogLeNet as GoogLeNet
from jaxdml.models.googlenet import GoogLeNetBN as GoogLeNetBN
from jaxdml.models.pooling import Pooling as Pooling
from jaxdml.models.registry import create as create
from jaxdml.models.resnet import ResNet as ResNet
from jaxdml.models.resnet import ResNet18 as ResNet18
from jaxdml.models.resnet import ResNet50 as ResNet50
from jaxdml.models.vit import DinoV2S14 as DinoV2S14
from jaxdml.models.vit import ViT as ViT
from jaxdml.models.vit import ViTB16 as ViTB16
from jaxdml.models.vit import ViTS16 as ViTS16

__all__ = [
  "BNInception",
  "BatchNorm",
  "ConvNet",
  "DinoV2S14",
  "EfficientNetLite",
  "Embedding",
  "Generator",
  "GoogLeNet",
  "GoogLeNetBN",
  "Pooling",
  "ResNet",
  "ResNet18",
  "ResNet50",
  "SoftmaxHead",
  "ViT",
  "ViTB16",
  "ViTS16",
  "count_parameters",
  "create",
]
