"""Every config key, with its default; the files in configs/ overlay it.

Durations ("300 steps", "2 epochs") count optimizer steps or passes over the training images.
Override any key on the command line: --config.optimizer.learning_rate=1e-4
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import FieldReference, placeholder


def get_config() -> ConfigDict:
  """The defaults: N-pair loss on the bundled glyphs, a small ConvNet."""
  config = ConfigDict()
  config.seed = 0

  config.data = ConfigDict()
  config.data.dataset = "glyphs"  # jaxdml.data.names() or "tfds:NAME"
  config.data.data_dir = ""  # "": TFDS's default, ~/tensorflow_datasets or $TFDS_DATA_DIR
  config.data.label = "label"  # the column trained on; COLUMN//M: random groups of M of its classes
  config.data.eval_label = ""  # the column evaluated on; "": data.label
  config.data.batch_size = 128  # global, over all devices and hosts
  config.data.sampler = "pk"  # pk, npair, triplet, uniform, hierarchical
  config.data.images_per_class = 4  # K of the P x K sampler
  config.data.coarse_label = ""  # sampler=hierarchical: the column with the group of each class
  config.data.coarse_per_batch = 2  # sampler=hierarchical: groups in a batch
  config.data.preprocess = "glyphs"  # glyphs, digits, hdml, standard
  # caffe, half, imagenet, unit, or as "bgr mean 104 117 128 std 1 1 1"; "": as the weights of
  # encoder.init want it, else the preprocessing's own
  config.data.normalize = ""
  config.data.image_size = 32  # 0: that of the weights of encoder.init
  # preprocess=standard: the resized picture's share that evaluation crops, bilinear or bicubic; 0
  # and "": as the weights of encoder.init want it, else 7/8 and bilinear
  config.data.crop_pct = 0.0
  config.data.interpolation = ""
  # Of training images, in this order; docs/data.md.
  config.data.crop = "random"  # center: as in evaluation; preprocess hdml or standard
  config.data.crop_scale = (0.2, 1.0)  # preprocess=standard: share of the picture's area
  config.data.crop_ratio = (3 / 4, 4 / 3)  # preprocess=standard: width / height
  config.data.flip = True  # False where left and right differ; preprocess hdml or standard
  config.data.rotate = 0.0  # degrees, either way; the picture's edge goes on in the corners
  config.data.color_jitter = 0.0  # strength in [0, 1]; preprocess hdml or standard
  config.data.rand_augment = 0  # operations of RandAugment a picture; 0: none
  config.data.rand_magnitude = 9.0  # their strength, 0 to 10
  config.data.trivial_augment = False  # TrivialAugment: one operation of any strength
  config.data.blur = 0.0  # probability of a Gaussian blur
  config.data.erase = 0.0  # probability of random erasing
  config.data.channels = 1
  config.data.cache = ""  # a directory where decoded pictures are kept, for later epochs and runs
  config.data.num_workers = 0  # processes preparing batches; 0: a thread
  config.data.max_bad_images = 0.01  # share that may fail to decode before the run stops

  config.encoder = ConfigDict()
  config.encoder.name = "convnet"  # one of models.ENCODERS, or package.module:factory
  # hf:ORG/NAME[@REVISION], hf: (the encoder's usual one), a file, a folder with model.safetensors
  # or of jaxdml convert, a WORKDIR, or imagenet; "": random. docs/encoders.md
  config.encoder.init = ""
  config.encoder.dtype = "float32"  # bfloat16: of activations alone; auto: where it runs on no CPU
  config.encoder.frozen_bn = False
  config.encoder.chunk_size = 0  # images a device encodes at a time, the loss stays global; 0: all
  config.encoder.frozen_stages = 0  # the first ones never change; frozen_bn keeps statistics
  config.encoder.options = ConfigDict()  # the encoder's own attributes
  # a folder: the encoder never changes, its features are made once and kept there; "": images
  config.encoder.cache_features = ""
  config.encoder.lora = ConfigDict()  # adapters learn in place of the encoder: arXiv 2106.09685
  config.encoder.lora.rank = 0  # of A B, which is added to a kernel; 0: no adapters
  config.encoder.lora.alpha = 16.0  # A B weighs alpha / rank
  config.encoder.lora.targets = r"block\d+/(qkv|proj)/kernel"  # expression that whole paths match

  config.embedding = ConfigDict()
  config.embedding.dim = 128
  config.embedding.hidden = ()  # widths of layers with a ReLU before it: an MLP
  config.embedding.norm = "batch"  # of the features: batch, layer, none
  config.embedding.unit_norm = False  # embeddings of length 1, for whatever distance
  config.embedding.kernel_scale = 1.0  # factor on the initial weights
  config.embedding.bn_momentum = placeholder(float)  # by hdml.variant: 0.9, with "code" 0.99

  config.loss = ConfigDict()
  config.loss.name = "npair"
  # the loss's own hyperparameters: --config.loss.options.margin=0.3
  config.loss.options = ConfigDict()
  config.loss.init_options = ConfigDict()  # of a loss with parameters, e.g. centers_per_class
  config.loss.distance = ""  # "": the loss's default
  config.loss.distance_options = ConfigDict()  # of hyperbolic: curvature, clip_radius
  config.loss.precision = ""  # of its products: highest, high, default; "": by the chip
  config.loss.reducer = ""  # "": the loss's default
  config.loss.layout = "all_pairs"  # all_pairs, npair, triplet
  config.loss.block_size = 0  # anchors at a time; 0: as suits the machine
  config.loss.learnable_beta = "none"  # margin loss: none, scalar, per_class

  config.mining = ConfigDict()
  config.mining.positive = "all_positives"  # nearest_positive is EPS
  config.mining.negative = "all_negatives"
  config.mining.options = ConfigDict()  # the miners' own hyperparameters

  config.memory = ConfigDict()
  config.memory.size = 0  # past embeddings that anchors are compared with too (XBM); 0: none
  config.memory.warmup = "0 steps"  # nothing is stored before: early embeddings are soon stale

  config.hdml = ConfigDict()
  config.hdml.enabled = False
  # default, paper or code: the value of each key below that is a placeholder, unless it is set;
  # jaxdml/training/variants.py has the table
  config.hdml.variant = "default"
  # Numbers are in units of losses; "auto" is not: docs/methods.md.
  config.hdml.alpha = FieldReference(90.0, object)  # negatives are pulled by exp(-alpha / J_avg)
  config.hdml.beta = FieldReference(1e4, object)  # J_m weighs exp(-beta / J_gen), J_syn the rest
  config.hdml.slots = 0  # partners synthesised for each anchor, nearest negatives first; 0: all
  config.hdml.block_size = 0  # anchors whose synthetics are made at a time; 0: as suits the machine
  config.hdml.generator_hidden = 512
  config.hdml.initial_average = 1e6  # J_avg and J_gen before the first window ends
  config.hdml.warmup = "0 steps"  # before the first window: generator and head learn, J_syn waits
  config.hdml.window = placeholder(str)  # of J_avg and J_gen: a duration
  config.hdml.weighted_average = placeholder(bool)  # J_avg averages what J_m weighs, else J_m
  config.hdml.reconstruction_weight = placeholder(float)
  config.hdml.soft_weight = placeholder(float)
  config.hdml.sum_reconstruction = placeholder(bool)  # else the mean over the batch
  config.hdml.sum_soft = placeholder(bool)  # else means:
  config.hdml.joint_soft = placeholder(bool)  # one, else the anchors' plus the partners'
  config.hdml.synthetic_members = placeholder(str)  # all, negatives
  config.hdml.detach = placeholder(str)  # none, distances, anchors, generated
  config.hdml.synthetic_bn = placeholder(str)  # own, real: statistics for synthetic features
  config.hdml.running_bn = placeholder(str)  # real, both: features that move the running ones

  config.optimizer = ConfigDict()
  config.optimizer.name = "adam"  # of encoder and embedding: adam, adamw, lamb, lion, muon, sgd
  config.optimizer.options = ConfigDict()  # its own: b1, b2, momentum, nesterov, ...
  config.optimizer.learning_rate = 1e-3  # encoder and embedding
  config.optimizer.generator_learning_rate = 1e-2
  config.optimizer.head_learning_rate = 1e-3
  config.optimizer.loss_learning_rate = 1e-3  # the loss's own parameters (beta, proxies)
  config.optimizer.encoder_factor = 1.0  # the encoder's share of learning_rate
  config.optimizer.layer_decay = 1.0  # factor on it for each stage further from the output
  config.optimizer.freeze_encoder = "0 steps"  # only embedding and losses learn before
  # ("1 epochs: 4", "3 epochs: all"): first the embedding, then the encoder's last 4 stages too, ...
  config.optimizer.unfreeze = ()
  config.optimizer.weight_decay = 0.0
  # True: an L2 term of J_m; False: decoupled (AdamW); by hdml.variant: False, with "code" True
  config.optimizer.weight_decay_in_loss = placeholder(bool)
  config.optimizer.clip_norm = 0.0  # global gradient norm of encoder and embedding; 0: no clipping
  config.optimizer.schedule = "constant"  # constant, cosine, step: of optimizer.learning_rate
  config.optimizer.warmup = "0 steps"
  config.optimizer.milestones = ()  # schedule=step: e.g. ("5632 steps", "6848 steps")
  config.optimizer.decay_factor = 0.5  # schedule=step: at each milestone

  config.train = ConfigDict()
  config.train.duration = "1000 steps"
  config.train.log_every = "20 steps"
  config.train.evaluate_every = "250 steps"
  config.train.checkpoint_every = "250 steps"
  config.train.patience = 0  # evaluations without a better eval.select_by that end a run; 0: none
  config.train.ema_decay = 0.0  # of averages that are evaluated and kept, 0.999 say; 0: none
  config.train.keep = 2  # checkpoints kept besides the best
  config.train.parallel = "pmap"  # or shard_map: what a step is compiled by; equal to rounding
  # of tensorboard, wandb, trackio, or package.module:factory; metrics.jsonl is written in any case
  config.train.writers = ("tensorboard",)
  config.train.report = True  # report.html at the end: docs/report.md

  config.eval = ConfigDict()
  config.eval.ks = (1, 2, 4, 8)
  config.eval.batch_size = 256
  # Side of images that are embedded, in evaluation and by the trained model; 0: data.image_size
  config.eval.image_size = 0
  config.eval.validation_fraction = 0.0  # share of the training classes held out for selection
  config.eval.folds = 0  # class-disjoint cross-validation: parts of the training classes; 0: none
  config.eval.fold = 0  # the part, 0..folds-1, that validates; the others train
  config.eval.select_by = "map@r"  # the metric that picks the checkpoint kept; "last": none
  # trained: the distance of the loss; cosine; "": cosine, but hyperbolic or your own as trained
  config.eval.rank_by = ""
  config.eval.raw_pixels = True  # the raw-pixel floor
  config.eval.untrained = True  # the floor of the encoder as it starts
  config.eval.plain = False  # the same without EPS and HDML is trained first, as one more floor
  config.eval.test = True  # False: tuning; all is measured on the validation part alone
  config.eval.clustering = True  # NMI and F1 by k-means, the slowest part of an evaluation
  config.eval.diagnostics = True  # class collapse, as collapse/...: docs/evaluation.md
  return config
