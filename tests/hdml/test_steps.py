"""Ten training steps of the real program, in float64, are those of a NumPy program beside it.

The whole of `jaxdml.training.program`: modules, objective, one Adam with its three groups, decay in
the loss or decoupled, BatchNorm's running statistics, HDML's windows. Only the encoder is a tiny
tanh layer.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models, training
from jaxdml.training import defaults
from jaxdml.training import program as program_lib
from tests.hdml import complex_step, modules, reference, tiny
from tests.hdml.test_objective import OBJECTIVE

STEPS, STEPS_PER_EPOCH = 10, 3
RATES = {"encoder": 0.02, "embedding": 0.02, "generator": 0.05, "head": 0.03}
DECAYED = {"encoder": ("w", "b"), "embedding": ("w", "b")}  # not BatchNorm's


class Tanh(nn.Module):
  """The reference's encoder: images [n, 2, 2, 1] -> tanh(x W + b)."""

  feature_dim: int = tiny.Y
  stages = ("fc",)

  @nn.compact
  def __call__(self, images, train):
    x = images.reshape(len(images), -1).astype(jnp.float64)
    return nn.tanh(nn.Dense(self.feature_dim, param_dtype=jnp.float64, name="fc")(x))


@pytest.fixture(autouse=True)
def _float64(monkeypatch):
  """The modules compute in float64, and the encoder is `Tanh`."""
  for name in ("Embedding", "Generator", "SoftmaxHead"):
    in_float64 = functools.partial(getattr(models, name), dtype=jnp.float64)
    monkeypatch.setattr(models, name, in_float64)
  monkeypatch.setattr(models, "create", lambda *args, **kwargs: Tanh())
  with jax.enable_x64(True):
    yield


def make_config(variant, loss, eps):
  config = defaults.get_config()
  config.data.image_size = 2
  config.data.normalize = "unit"
  config.embedding.dim = tiny.Z
  config.loss.name = loss
  config.loss.layout = "all_pairs" if eps else loss
  config.data.sampler = "pk" if eps else loss
  config.loss.options = tiny.OPTIONS[loss]
  if loss == "triplet":
    config.loss.distance, config.loss.reducer = "squared_euclidean", "sum"
  config.mining.positive = "nearest_positive" if eps else "all_positives"
  config.hdml.enabled = True
  config.hdml.variant = variant
  config.hdml.generator_hidden = tiny.HIDDEN
  config.hdml.alpha, config.hdml.beta = 2.0, 30.0
  config.hdml.soft_weight = 0.5
  config.hdml.window = "2 steps" if variant == "code" else None
  config.hdml.initial_average = 50.0
  config.optimizer.learning_rate = RATES["encoder"]
  config.optimizer.generator_learning_rate = RATES["generator"]
  config.optimizer.head_learning_rate = RATES["head"]
  config.optimizer.weight_decay = tiny.DECAY
  return config


def unflatten(params):
  """Reference parameters as the program's tree."""
  dense = {"kernel": params["encoder"]["w"], "bias": params["encoder"]["b"]}
  return modules.to_modules(params, jnp.float64) | {"encoder": {"fc": dense}}


class Adam:
  """arXiv 1412.6980; `decay` is decoupled (arXiv 1711.05101)."""

  def __init__(self, params, rates):
    self.rates, self.count = rates, 0
    self.mu, self.nu = (jax.tree.map(np.zeros_like, params) for _ in range(2))

  def step(self, params, gradients, decay):
    self.count += 1
    new = {}
    for group, leaves in params.items():
      new[group] = {}
      for key, value in leaves.items():
        g = gradients[group][key]
        self.mu[group][key] = mu = 0.9 * self.mu[group][key] + 0.1 * g
        self.nu[group][key] = nu = 0.999 * self.nu[group][key] + 0.001 * g**2
        mu, nu = mu / (1 - 0.9**self.count), nu / (1 - 0.999**self.count)
        update = mu / (np.sqrt(nu) + 1e-8)
        if key in DECAYED.get(group, ()):
          update = update + decay * value
        new[group][key] = value - self.rates[group] * update
    return new


def moments_of(opt_state, group):
  """Adam's (mu, nu) of a group in the program's state."""
  (found,) = [
    s for s in jax.tree.leaves(
      opt_state.inner_states[group], is_leaf=lambda s: hasattr(s, "mu")
    ) if hasattr(s, "mu")
  ]  # fmt: skip
  return found.mu, found.nu


def close(got, want, what):
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    scale = np.max(np.abs(b))
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9 * scale + 1e-13, err_msg=what)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("variant", "loss", "eps", "synthetic_bn", "warmup"),
  [
    ("paper", "npair", False, None, 0),
    ("code", "npair", True, None, 3),
    ("paper", "triplet", True, None, 0),
    ("code", "triplet", False, "real", 0),
  ],
)
def test_ten_steps_are_the_reference(variant, loss, eps, synthetic_bn, warmup):
  config = make_config(variant, loss, eps)
  config.hdml.warmup = f"{warmup} steps"
  case = tiny.of_variant(variant, loss, config.loss.layout, tiny.EPS if eps else ())
  choices = case.choices | {"soft_weight": 0.5}
  if synthetic_bn:
    config.hdml.synthetic_bn = synthetic_bn
    case = case._replace(synthetic_bn=synthetic_bn)
  in_loss = variant == "code"
  keep, running_bn = (0.99, "both") if in_loss else (0.9, "real")
  resolved = training.resolve(config)
  assert (resolved.embedding.bn_momentum, resolved.hdml.running_bn) == (keep, running_bn)
  program = program_lib.build(
    resolved, num_classes=tiny.CLASSES, total_steps=STEPS, steps_per_epoch=STEPS_PER_EPOCH
  )
  state = program.init(jax.random.key(0))
  params = tiny.params()
  # Exact where it starts, so that nothing is rounded to float32 on the way.
  widen = lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a
  state = jax.tree.map(widen, state._replace(params=unflatten(params)))
  step = jax.jit(program.step, compiler_options=tiny.QUICK)

  adam = Adam(params, RATES)
  length = 2 if in_loss else STEPS_PER_EPOCH
  windows = [reference.WindowMean(50.0, length) for _ in range(2)]
  running = {
    name: (np.zeros(size), np.ones(size))
    for name, size in (("embedding", tiny.Y), ("generator", tiny.HIDDEN))
  }
  hardness = set()
  for number in range(STEPS):
    r = np.random.default_rng(number)
    image = r.integers(0, 256, (len(case.labels), 2, 2, 1), np.uint8)
    labels = jnp.array(case.labels)
    batch = {"image": image, "label": labels, "index": jnp.arange(len(labels))}
    state, metrics = step(state, batch)

    options = case.reference() | choices | {"alpha": 2.0, "beta": 30.0}
    options.pop("weighted_average", None)
    x = (image.reshape(-1, tiny.X).astype(np.float32) * np.float32(1 / 255)).astype(np.float64)
    p = complex_step.perturbed(params)
    want, statistics = reference.objective(
      p, x, case.labels, *(window.mean for window in windows), **options
    )
    for key, value in want.items():
      expected = complex_step.real(value)
      got = metrics["loss" if key == "total" else key]
      np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12, err_msg=f"{number}: {key}")
    gradients = {
      group: complex_step.gradient(want[key], params)[group] for group, key in OBJECTIVE.items()
    }
    params = adam.step(params, gradients, 0.0 if in_loss else tiny.DECAY)
    trust = complex_step.real(want["hdml/trust_in_real"])
    hardness.add(round(complex_step.real(want["hdml/lambda"]), 3))
    if number >= warmup:
      windows[0].update(complex_step.real(want["loss/real"]) * (trust if in_loss else 1.0))
      windows[1].update(complex_step.real(want["loss/generator"]))
    moved = [("embedding", "embedding"), ("generator", "generator")]
    if running_bn == "both":
      moved.insert(1, ("embedding", "synthetic"))
    for name, source in moved:
      share = keep if name == "embedding" else 0.9
      running[name] = tuple(
        share * old + (1 - share) * np.real(new)[:, 0]
        for old, new in zip(running[name], statistics[source], strict=True)
      )

    close(state.params, unflatten(params), f"{number}: parameters")
    for name, (mean, var) in running.items():
      close(state.batch_stats[name]["bn"], {"mean": mean, "var": var}, f"{number}: {name}")
    for window, ours in zip(windows, (state.hdml.metric, state.hdml.generator), strict=True):
      got = (ours.mean, ours.total, ours.count)
      close(got, (window.mean, sum(window.values), len(window.values)), f"{number}: windows")
    for group, names in {"metric": ("encoder", "embedding"), "generator": ("generator",),
                         "head": ("head",)}.items():  # fmt: skip
      for got, want_moments in zip(
        moments_of(state.opt_state, group), (adam.mu, adam.nu), strict=True
      ):
        tree = unflatten(want_moments)
        close({n: got[n] for n in names}, {n: tree[n] for n in names}, f"{number}: Adam's {group}")
  assert int(state.step) == STEPS
  assert len(hardness) >= 4, "several windows ended"
