"""Losses with parameters against pytorch-metric-learning 2.9: values and gradients in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("pytorch_metric_learning")

import torch
from pytorch_metric_learning import losses as theirs
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.reducers import DoNothingReducer

from jaxdml import distances
from jaxdml.losses import class_vectors, proxy, reducers
from tests.losses.table import compiled

# Raised by their constructor's use of SciPy on tensors.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

CLASSES, D, K = 6, 5, 3
SIZE = {"num_classes": CLASSES, "embedding_size": D}


def _rows(vectors):
  """[C, d] or [C, K, d] as [C K, d], a class's centers side by side."""
  return vectors.reshape(-1, D)


def _columns(vectors):
  return _rows(vectors).T


# ours with options, theirs with the same, the name of their weight and its layout, our centers.
DEGREES = math.degrees
CASES = {
  "proxy_nca_pp": (
    proxy.proxy_nca_pp_loss, {"temperature": 1 / 3},
    theirs.ProxyNCALoss, {"softmax_scale": 3}, "proxies", _rows, (),
  ),
  "proxy_anchor": (
    proxy.proxy_anchor_loss, {}, theirs.ProxyAnchorLoss, {}, "proxies", _rows, (),
  ),
  "proxy_anchor_options": (
    proxy.proxy_anchor_loss, {"margin": 0.3, "alpha": 5.0},
    theirs.ProxyAnchorLoss, {"margin": 0.3, "alpha": 5.0}, "proxies", _rows, (),
  ),
  "soft_triple": (
    # Without the paper's penalty, which theirs leaves to a weight regulariser.
    proxy.soft_triple_loss, {"tau": 0.0},
    theirs.SoftTripleLoss, {"centers_per_class": K}, "fc", _columns, (K,),
  ),
  "soft_triple_options": (
    proxy.soft_triple_loss, {"tau": 0.0, "la": 7.0, "gamma": 0.5, "margin": 0.2},
    theirs.SoftTripleLoss, {"centers_per_class": K, "la": 7.0, "gamma": 0.5, "margin": 0.2},
    "fc", _columns, (K,),
  ),
  "normalized_softmax": (
    # The embeddings are normalised in both, by the distance: see the test below.
    class_vectors.normalized_softmax_loss, {}, theirs.NormalizedSoftmaxLoss, {}, "W", _columns, (),
  ),
  "arcface": (
    class_vectors.arcface_loss, {},
    theirs.ArcFaceLoss, {"margin": DEGREES(0.5)}, "W", _columns, (),
  ),
  "arcface_past_pi": (
    class_vectors.arcface_loss, {"margin": 2.0, "scale": 5.0},
    theirs.ArcFaceLoss, {"margin": DEGREES(2.0), "scale": 5.0}, "W", _columns, (),
  ),
  "sub_center_arcface": (
    class_vectors.sub_center_arcface_loss, {},
    theirs.SubCenterArcFaceLoss, {"margin": DEGREES(0.5), "sub_centers": K}, "W", _columns, (K,),
  ),
  "cosface": (class_vectors.cosface_loss, {}, theirs.CosFaceLoss, {}, "W", _columns, ()),
  "sphereface": (class_vectors.sphereface_loss, {}, theirs.SphereFaceLoss, {}, "W", _columns, ()),
  "sphereface_odd": (
    class_vectors.sphereface_loss, {"margin": 3, "scale": 2.0},
    theirs.SphereFaceLoss, {"margin": 3, "scale": 2.0}, "W", _columns, (),
  ),
}  # fmt: skip

LABELS = {
  "unequal": [0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4],
  "singletons": [5, 2, 0, 4],
  "one_class": [3] * 5,
  "one_example": [1],
}


@pytest.fixture(autouse=True)
def _x64():
  with jax.enable_x64(True):
    yield


def _data(labels, centers, seed):
  rng = np.random.default_rng(seed)
  x = 1.7 * rng.normal(size=(len(labels), D))
  return x, np.array(labels), rng.normal(size=(CLASSES, *centers, D))


def _torch(cls, options, weight, layout, x, y, vectors):
  """(value, gradient of x, gradient of the weight in its own layout)."""
  module = cls(**SIZE, **options)
  parameter = getattr(module, weight)
  parameter.data = torch.from_numpy(layout(vectors).copy())
  x = torch.from_numpy(x).requires_grad_()
  value = module(x, torch.from_numpy(y))
  value.backward()
  return value.item(), x.grad.numpy(), parameter.grad.numpy()


def _jax(loss, options, x, y, vectors):
  key = "centers" if vectors.ndim == 3 else "proxies"
  fn = lambda x, v: loss(x, y, params={key: v}, **options)
  value, gradients = compiled(jax.value_and_grad(fn, argnums=(0, 1)))(x, vectors)
  return value, *(np.asarray(g) for g in gradients)


def close(actual, expected, rtol=1e-10):
  # Theirs subtracts logs of sums: absolute rounding, which is what is left of a tiny loss.
  np.testing.assert_allclose(
    actual, expected, rtol=rtol, atol=rtol * np.max(np.abs(expected)) + 1e-14
  )


@pytest.mark.parametrize("batch", LABELS)
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients(case, batch):
  ours, options, cls, their_options, weight, layout, centers = CASES[case]
  for seed in range(3):
    x, y, vectors = _data(LABELS[batch], centers, seed)
    expected = _torch(cls, their_options, weight, layout, x, y, vectors)
    value, x_gradient, vector_gradient = _jax(ours, options, x, y, vectors)
    close(value, expected[0])
    close(x_gradient, expected[1])
    close(layout(vector_gradient), expected[2])
    assert np.any(expected[1]) and np.any(expected[2])


def test_proxy_nca_differs_by_the_positive_in_the_denominator():
  """Theirs is softplus(the paper's) for each example, so it is our ProxyNCA++."""
  x, y, vectors = _data(LABELS["unequal"], (), seed=5)
  x[0] = 2 * vectors[y[0]]
  for scale in (1, 3):
    module = theirs.ProxyNCALoss(**SIZE, softmax_scale=scale, reducer=DoNothingReducer())
    module.proxies.data = torch.from_numpy(vectors)
    per_example = module(torch.from_numpy(x), torch.from_numpy(y))["loss"]["losses"]
    options = {
      "params": {"proxies": vectors}, "temperature": 1 / scale, "reduce_fn": reducers.none,
    }  # fmt: skip
    paper = proxy.proxy_nca_loss(x, y, **options)
    close(jax.nn.softplus(paper), per_example.detach().numpy())
    close(proxy.proxy_nca_pp_loss(x, y, **options), per_example.detach().numpy())
  assert np.min(paper) < 0 < np.max(paper)  # without the positive it has no floor


def test_proxy_nca_on_unnormalized_distances():
  x, y, vectors = _data(LABELS["unequal"], (), seed=6)
  expected = _torch(
    theirs.ProxyNCALoss,
    {"distance": LpDistance(power=2, normalize_embeddings=False)},
    "proxies", _rows, x, y, vectors,
  )  # fmt: skip
  options = {"temperature": 1.0, "distance_fn": distances.squared_euclidean}
  for actual, wanted in zip(
    _jax(proxy.proxy_nca_pp_loss, options, x, y, vectors), expected, strict=True
  ):
    close(actual, wanted)


def test_normalized_softmax_normalizes_embeddings_only_by_its_distance():
  """Theirs always normalises W; x by its distance, which does by default, as ours does."""
  from pytorch_metric_learning.distances import DotProductSimilarity

  x, y, vectors = _data(LABELS["unequal"], (), seed=7)
  raw = {"distance": DotProductSimilarity(normalize_embeddings=False)}
  expected = _torch(theirs.NormalizedSoftmaxLoss, raw, "W", _columns, x, y, vectors)
  # The same in ours: a distance that normalises the class vectors alone.
  one_sided = lambda x, w: 1.0 - x @ distances.l2_normalize(w).T
  actual = _jax(class_vectors.normalized_softmax_loss, {"distance_fn": one_sided}, x, y, vectors)
  close(actual[0], expected[0])
  close(actual[1], expected[1])
  close(_columns(actual[2]), expected[2])
  default = class_vectors.normalized_softmax_loss(x, y, params={"proxies": jnp.asarray(vectors)})
  assert abs(float(default) - expected[0]) > 0.1


def test_sphereface_uses_the_norm_of_the_embedding_as_given():
  x, y, vectors = _data(LABELS["unequal"], (), seed=8)
  unit = x / np.linalg.norm(x, axis=1, keepdims=True)
  given, normed = (
    _torch(theirs.SphereFaceLoss, {}, "W", _columns, v, y, vectors)[0] for v in (x, unit)
  )
  ours = lambda v: class_vectors.sphereface_loss(v, y, params={"proxies": vectors})
  close(ours(x), given)
  close(ours(unit), normed)
  assert abs(given - normed) > 0.1
