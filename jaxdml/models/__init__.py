"""Flax linen encoders (images to features) and HDML's autoencoder around the metric space."""

from jaxdml.models.autoencoder import Embedding as Embedding
from jaxdml.models.autoencoder import Generator as Generator
from jaxdml.models.autoencoder import SoftmaxHead as SoftmaxHead
from jaxdml.models.blocks import BatchNorm as BatchNorm
from jaxdml.models.blocks import count_parameters as count_parameters
from jaxdml.models.bn_inception import BNInception as BNInception
from jaxdml.models.convnet import ConvNet as ConvNet
from jaxdml.models.googlenet import GoogLeNet as GoogLeNet
from jaxdml.models.googlenet import GoogLeNetBN as GoogLeNetBN
from jaxdml.models.pooling import Pooling as Pooling
from jaxdml.models.registry import create as create
from jaxdml.models.resnet import ResNet as ResNet
from jaxdml.models.resnet import ResNet18 as ResNet18
from jaxdml.models.resnet import ResNet50 as ResNet50

__all__ = [
  "BNInception",
  "BatchNorm",
  "ConvNet",
  "Embedding",
  "Generator",
  "GoogLeNet",
  "GoogLeNetBN",
  "Pooling",
  "ResNet",
  "ResNet18",
  "ResNet50",
  "SoftmaxHead",
  "count_parameters",
  "create",
]
