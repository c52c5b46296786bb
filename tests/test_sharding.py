"""Functions of the host under whatever mesh their caller has set."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxdml import evaluation

LABELS = np.arange(48) // 4
EMBEDDINGS = np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32)
METRICS = {
  "neighbours": lambda x, y: evaluation.nearest_neighbours(x, k=3),
  "retrieval": evaluation.retrieval_metrics,
  "clustering": evaluation.clustering_metrics,
  "collapse": lambda x, y: evaluation.collapse_metrics(x, y // 2, y),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_evaluation_of_sharded_embeddings_under_a_mesh(name, kind):
  """Without the mesh set aside, JAX refuses the programs that evaluation shares out by itself."""
  mesh = jax.make_mesh((8,), ("batch",), axis_types=(AxisType[kind],))
  put = lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch")))
  with jax.set_mesh(mesh):
    got = METRICS[name](put(EMBEDDINGS), put(LABELS))
  expected = METRICS[name](EMBEDDINGS, LABELS)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, expected)
