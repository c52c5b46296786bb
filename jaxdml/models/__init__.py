"""Flax linen encoders (images to features) and HDML's autoencoder around the metric space."""

from jaxdml.models.autoencoder import Embedding as Embedding
from jaxdml.models.autoencoder import Generator as Generator
from jaxdml.models.autoencoder import SoftmaxHead as SoftmaxHead
from jaxdml.models.convnet import ConvNet as ConvNet

__all__ = ["ConvNet", "Embedding", "Generator", "SoftmaxHead"]
