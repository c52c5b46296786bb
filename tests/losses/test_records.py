"""Records say what the functions are, help() shows it, and dir() is what is for users."""

import inspect
import pydoc
import subprocess
import sys
import typing

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import distances, hdml, losses, mining, refs, types
from tests.losses.names import PARAMETRIC, TUPLE
from tests.losses.table import PER_CLASS_OPTION

every_loss = pytest.mark.parametrize("name", losses.LOSSES)


@every_loss
def test_a_record_is_its_signature(name):
  record = losses.LOSSES[name]
  parameters = inspect.signature(record.fn).parameters
  positional, *keywords = list(parameters)[:2], *list(parameters)[2:]
  assert positional == ["embeddings", "labels"]
  assert all(
    parameters[k].kind is inspect.Parameter.KEYWORD_ONLY for k in keywords if k != "shared"
  )
  params = ["params"] if record.parameter else []
  assert keywords == [*params, *record.options, "distance_fn", "reduce_fn", "shared"]
  assert parameters["shared"].kind is inspect.Parameter.VAR_KEYWORD
  assert parameters["distance_fn"].default is record.distance_fn
  assert parameters["reduce_fn"].default is record.reduce_fn
  if record.parameter:
    assert parameters["params"].default is inspect.Parameter.empty
  assert record.name == name and record.fn is getattr(losses, f"{name}_loss")
  assert record.fn.__name__ == f"{name}_loss" and "docs/conventions.md" in record.fn.__doc__


@every_loss
def test_the_shared_tail_is_declared_once(name):
  """What `**shared` stands for is what the engine takes, and what `create` allows."""
  shared = inspect.signature(losses.LOSSES[name].fn).parameters["shared"].annotation
  assert shared == typing.Unpack[types.Shared if name in PARAMETRIC else types.SharedRefs]
  keys = set(typing.get_type_hints(types.Shared if name in PARAMETRIC else types.SharedRefs))
  left_out = {"params", "refs", "ids"} if name in PARAMETRIC else {"params"}
  assert keys | {"distance_fn", "reduce_fn"} == set(losses.SHARED) - left_out
  assert keys < set(inspect.signature(losses.from_rows).parameters)
  for option in (*losses.LOSSES[name].options, *losses.SHARED):
    if option in left_out:
      with pytest.raises(ValueError, match=f"loss '{name}' has no option"):
        losses.create(name, **{option: None})
    else:
      assert losses.create(name, **{option: None}).keywords == {option: None}


def test_additive_losses_are_those_without_a_pass_before():
  not_additive = {name for name, loss in losses.LOSSES.items() if not loss.additive}
  assert not_additive == {"histogram", "lifted_structure"}


def test_help_shows_the_default_distance_by_its_name():
  text = pydoc.render_doc(losses.triplet_loss, renderer=pydoc.plaintext)
  assert "distances.normalized_squared_euclidean" in text and "reducers.mean_nonzero" in text
  assert "margin: float = 0.2" in text and "FaceNet" in text
  assert "argmin_{p: y_p = y_a} d(a, p)" in pydoc.render_doc(mining.nearest_positive)
  assert "1 - cos(x_i, y_j)" in pydoc.render_doc(distances.cosine)
  for name, distance in distances.DISTANCES.items():
    if name != "hyperbolic":
      assert repr(distance) == f"distances.{name}"
  assert repr(distances.hyperbolic()) == "distances.hyperbolic"


@pytest.mark.parametrize("module", [losses, mining, distances, refs, hdml])
def test_dir_is_what_is_for_users(module):
  assert sorted(dir(module)) == sorted(module.__all__)
  assert all(hasattr(module, name) for name in module.__all__)


def test_mathematics_imports_nothing_heavy():
  program = (
    "import sys; import jaxdml.losses, jaxdml.mining, jaxdml.refs, jaxdml.hdml;"
    "print(sorted({m.partition('.')[0] for m in sys.modules} & "
    "{'flax', 'optax', 'orbax', 'tensorflow_datasets', 'chex', 'ml_collections', 'matplotlib'}))"
  )
  result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
  assert result.stdout == "[]\n", result.stderr


@pytest.mark.parametrize("name", PARAMETRIC)
def test_init(name):
  parameter = losses.LOSSES[name].parameter
  option = PER_CLASS_OPTION.get(name)
  params = losses.init(name, jax.random.key(0), 7, 64)
  ((key, array),) = params.items()
  default = {"soft_triple": 10, "sub_center_arcface": 3}
  chex.assert_shape(array, (7, default[name], 64) if option else (7, 64))
  chex.assert_type(array, jnp.float32)
  assert key == parameter.name == ("centers" if option else "proxies")
  assert parameter.options == ((option,) if option else ())
  assert len(parameter.axes) == array.ndim
  np.testing.assert_allclose(np.linalg.norm(array, axis=-1), 1.0, atol=0.35)
  assert np.any(array != losses.init(name, jax.random.key(1), 7, 64)[key])
  if option:
    assert losses.init(name, jax.random.key(0), 2, 4, **{option: 5})[key].shape == (2, 5, 4)
  with pytest.raises(ValueError, match="must be at least 1; got"):
    losses.init(name, jax.random.key(0), 0, 64)
  with pytest.raises(ValueError, match=rf"loss '{name}' has no init option \['k'\]"):
    losses.init(name, jax.random.key(0), 7, 64, k=2)


@pytest.mark.parametrize("name", TUPLE)
def test_init_of_a_loss_without_parameters_is_empty(name):
  assert losses.init(name, jax.random.key(0), 7, 64) == {}
