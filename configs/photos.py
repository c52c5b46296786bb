"""Your own photos: multi-similarity with easy positives on a ResNet-18, from a folder a class.

jaxdml prepare image_folder --source=DIR --name=NAME
jaxdml show --config=configs/photos.py:NAME
python -m jaxdml.main --config=configs/photos.py:NAME --workdir=runs/NAME

A fifth of the training classes chooses the checkpoint, the test classes only measure it. With fewer
than 16 classes, or for more of them on a GPU, set --config.data.batch_size to 4 x classes. Easy
positives (arXiv 2006.05162) because photos of one class usually come in several looks. Where they
do not, and with hundreds of classes, all positives may be better (docs/results.md): compare with
configs/photos.py:NAME,all, where nothing else changes (NAME,multisimilarity also mines negatives).
Any loss of docs/losses.md and method (eps, random, all, hdml) may follow the name like that, as in
NAME,triplet,hdml or NAME,proxy_anchor (hdml not with a loss that has parameters). Photos of many
megapixels: prepare them with --max_side=640, or reading them takes most of the time.
Published: nothing, the photos are yours. Measured: not run here. Cost: not measured here. From
random weights expect to need many photos: finetune_photos.py starts from ImageNet's.
"""

from ml_collections import ConfigDict

from jaxdml.training import defaults, recipes


def get_config(names: str = "photos") -> ConfigDict:
  """Trains on the data set image_folder/NAME of `names`, "NAME" or "NAME,recipe,..."."""
  name, _, recipe = names.partition(",")
  config = defaults.get_config()

  config.data.dataset = f"image_folder/{name}"
  config.data.preprocess = "standard"  # random resized crops, flipped
  config.data.image_size = 224
  config.data.channels = 3
  config.data.sampler = "pk"  # 16 classes x 4 photos
  config.data.images_per_class = 4
  config.data.batch_size = 64
  config.data.num_workers = 4

  config.encoder.name = "resnet18"
  config.encoder.dtype = "auto"  # bfloat16, on a CPU float32
  config.embedding.dim = 128

  config.loss.name = "multi_similarity"
  config.mining.positive = "nearest_positive"  # EPS

  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = "cosine"
  config.optimizer.warmup = "1 epochs"

  config.train.duration = "60 epochs"
  config.train.evaluate_every = "5 epochs"
  config.train.checkpoint_every = "1 epochs"
  config.eval.validation_fraction = 0.2
  config.eval.batch_size = 64
  return recipes.apply(config, recipe)
