"""Miners on rows written by hand: what is kept, ties, fallbacks, order of chains."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import losses, mining
from jaxdml.mining import _miner
from jaxdml.types import Pairs
from tests.losses import reference
from tests.losses.table import compiled


def create(names, **options):
  """mining.create, compiled: op by op, the random numbers take seconds."""
  return compiled(mining.create(names, **options))


def pairs(distances, kinds, key=None):
  """Rows from distances and a string of p (positive), n (negative) and . (neither) each."""
  kind = np.array([list(row) for row in kinds])
  keys = None if key is None else jax.random.split(key, len(kinds))
  return Pairs(
    jnp.array(distances, jnp.float32),
    jnp.array(kind == "p"),
    jnp.array(kind == "n"),
    jnp.arange(len(kinds)),
    keys,
  )


def kinds(mined):
  """The masks of mined pairs, written back as strings."""
  chars = np.where(mined.positive, "p", np.where(mined.negative, "n", "."))
  return ["".join(row) for row in chars]


HAND_CASES = [
  # name, distances, before, after
  ("all_positives", [3, 1, 2], "ppn", "ppn"),
  ("all_negatives", [3, 1, 2], "pnn", "pnn"),
  ("nearest_positive", [3, 1, 2, 0], "pppn", ".p.n"),
  ("nearest_positive", [2, 1, 1, 1], "pppp", ".p.."),  # a tie: the lowest column
  ("nearest_positive", [0, 1, 2, 3], ".n.n", ".n.n"),  # no positive
  ("nearest_positive", [0, 9, 8, 1], "nppn", "n.pn"),  # masked minima do not win
  ("nearest_positive", [np.inf, np.inf, 1], "ppn", "p.n"),  # far, but there
  ("hardest_positive", [1, 3, 2, 9], "pppn", ".p.n"),
  ("hardest_positive", [1, 3, 3, 0], "pppp", ".p.."),
  ("hardest_negative", [1, 3, 2, 4], "pnnn", "p.n."),
  ("hardest_negative", [1, 2, 2, 2], "pnnn", "pn.."),
  ("hardest_negative", [1, 2, 0, 0], "pp..", "pp.."),
  ("semihard_negative", [2, 1, 3, 4], "pnnn", "p.n."),  # the nearest one beyond the positive
  ("semihard_negative", [2, 2, 3, 3], "pnnn", "p.n."),  # at the positive's distance: not beyond
  ("semihard_negative", [5, 1, 3, 3], "pnnn", "p.n."),  # none beyond: the farthest, lowest column
  ("semihard_negative", [1, 5, 3, 6], "ppnn", "pp.n"),  # beyond the farthest positive
  ("semihard_negative", [1, 5, 3, 6], "..nn", "...."),  # no positive, so no negative
  ("semihard_negative", [1, 5, 3, 6], "pp..", "pp.."),
  ("nearest_positive+semihard_negative", [1, 5, 3, 6], "ppnn", "p.n."),
  ("semihard_negative+nearest_positive", [1, 5, 3, 6], "ppnn", "p..n"),  # order matters
  ("hardest_positive+hardest_negative", [1, 5, 3, 6], "ppnn", ".pn."),
]


@pytest.mark.parametrize(("name", "distances", "before", "after"), HAND_CASES)
def test_by_hand(name, distances, before, after):
  given = pairs([distances], [before])
  mined = create(name)(given)
  assert kinds(mined) == [after]
  np.testing.assert_array_equal(mined.distances, given.distances)


K_CASES = [
  # miner, k, distances, before, after
  ("nearest_positives", 1, [3, 1, 2, 0], "pppn", ".p.n"),
  ("nearest_positives", 2, [3, 1, 2, 0], "pppn", ".ppn"),
  ("nearest_positives", 2, [1, 1, 1, 1], "npp.", "npp."),  # just as many as k
  ("nearest_positives", 2, [2, 1, 2, 2], "pppp", "pp.."),  # a tie: the lowest columns
  ("nearest_positives", 3, [5, 1, 2, 0], "ppnn", "ppnn"),  # fewer than k: all
  ("nearest_positives", 2, [0, 1, 2, 3], ".n.n", ".n.n"),  # no positive
  ("nearest_positives", 2, [0, 9, 8, 1], "nppp", "n.pp"),  # masked minima take no place
  ("nearest_positives", 4, [3, 1, 2, 0], "pppn", "pppn"),  # the whole row
  ("nearest_positives", 9, [3, 1, 2, 0], "pp.n", "pp.n"),  # more than the row is long
  ("hardest_negatives", 1, [1, 3, 2, 4], "pnnn", "p.n."),
  ("hardest_negatives", 2, [1, 3, 2, 4], "pnnn", "pnn."),
  ("hardest_negatives", 2, [1, 2, 2, 2], "pnnn", "pnn."),  # a tie
  ("hardest_negatives", 3, [1, 3, 2, 4], "p.nn", "p.nn"),  # fewer than k
  ("hardest_negatives", 2, [1, 2, 0, 0], "pp..", "pp.."),  # no negative
  ("hardest_negatives", 2, [1, 2, 0, 3], "..nn", "..nn"),  # an anchor without positive keeps them
  ("hardest_negatives", 9, [1, 2, 0, 3], "pnnn", "pnnn"),
  ("nearest_positives+hardest_negatives", 1, [4, 3, 2, 1], "ppnn", ".p.n"),
]


@pytest.mark.parametrize(("names", "k", "distances", "before", "after"), K_CASES)
def test_the_k_nearest_by_hand(names, k, distances, before, after):
  given = pairs([distances], [before])
  mined = create(names, k=k)(given)
  assert kinds(mined) == [after]
  np.testing.assert_array_equal(mined.distances, given.distances)


def test_one_of_the_k_nearest_is_the_nearest():
  rng = np.random.default_rng(0)
  d = rng.integers(0, 4, (200, 9))  # full of ties
  given = pairs(d, ["".join(row) for row in rng.choice(list("pn."), (200, 9))])
  for one, several in (
    ("nearest_positive", "nearest_positives"),
    ("hardest_negative", "hardest_negatives"),
  ):
    assert kinds(create(one)(given)) == kinds(create(several, k=1)(given))
  everything = create("nearest_positives+hardest_negatives", k=9)
  assert kinds(everything(given)) == kinds(given)


FILTER_CASES = [
  # epsilon, distances, before, after
  (0.0, [1, 3, 2, 4], "ppnn", ".pn."),  # 1 is nearer than every negative, 4 farther than positives
  (1.5, [1, 3, 2, 4], "ppnn", "ppnn"),
  (0.0, [2, 2, 2, 9], "pnn.", "...."),  # equal is not beyond
  (0.5, [2, 2, 2, 9], "pnn.", "pnn."),
  (0.5, [1, 2, 3, 4], "ppnn", "...."),  # separated: nothing to learn
  (-1.0, [3, 1, 2, 2.5], "pnnn", "pn.."),  # a negative epsilon asks for more than a violation
  (0.1, [1, 2, 3, 4], "pppp", "...."),  # no negative: no positives
  (0.1, [1, 2, 3, 4], ".nnn", "...."),  # no positive: no negatives
  (0.1, [0, 9, 3, 2], ".ppn", ".ppn"),  # what is masked counts for nothing
]


@pytest.mark.parametrize(("epsilon", "distances", "before", "after"), FILTER_CASES)
def test_multi_similarity_filter_by_hand(epsilon, distances, before, after):
  given = pairs([distances], [before])
  mined = create("multi_similarity_filter", epsilon=epsilon)(given)
  assert kinds(mined) == [after]
  np.testing.assert_array_equal(mined.distances, given.distances)


def test_multi_similarity_filter_has_the_papers_epsilon():
  given = pairs([[1.0, 1.05, 1.15]], ["pnn"])  # 0.1: one negative is within it
  assert kinds(create("multi_similarity_filter")(given)) == ["pn."]


NEW = {
  "nearest_positives": (2, lambda row: reference.nearest_positives(row, 2)),
  "hardest_negatives": (3, lambda row: reference.hardest_negatives(row, 3)),
  "multi_similarity_filter": (None, reference.multi_similarity_filter),
}


@pytest.mark.parametrize("name", NEW)
def test_random_rows_are_the_references(name):
  rng = np.random.default_rng(1)
  d = rng.integers(0, 12, (300, 8)) / 4.0  # ties
  before = ["".join(row) for row in rng.choice(list("pn."), (300, 8))]
  k, by_hand = NEW[name]
  mined = create(name, **({} if k is None else {"k": k}))(pairs(d, before))
  expected = []
  for row, kind in zip(d, before, strict=True):
    columns = lambda c, kind=kind: [j for j, v in enumerate(kind) if v == c]
    (kept,) = by_hand(reference.Row(0, list(row), columns("p"), columns("n"), 0, 0, 0, 0))
    sides = dict.fromkeys(kept.positives, "p") | dict.fromkeys(kept.negatives, "n")
    expected.append("".join(sides.get(j, ".") for j in range(8)))
  assert kinds(mined) == expected


def test_infinite_and_nan_distances_take_no_ones_place():
  given = pairs([[np.inf, 1, 2, 3], [np.nan, 1, 2, 3]], ["ppnn", "ppnn"])
  mined = create("nearest_positives", k=1)(given)
  assert kinds(mined)[0] == ".pnn" and kinds(mined)[1].count("p") <= 1


def test_chain_applies_from_left_to_right_and_nothing_changes_nothing():
  calls = []
  note = lambda name: lambda p: calls.append(name) or p
  given = pairs([[1, 2]], ["pn"])
  chex.assert_trees_all_equal(mining.chain(note("a"), note("b"), note("c"))(given), given)
  assert calls == ["a", "b", "c"]
  assert mining.chain()(given) is given


def test_expand_positives():
  given = pairs([[1, 2, 3, 4], [5, 6, 7, 8]], ["pnpp", "n.np"])
  mined = create("expand_positives")(given)
  assert [k for k in kinds(mined) if k != "...."] == ["pn..", ".np.", ".n.p", "n.np"]
  np.testing.assert_array_equal(mined.anchor, [0, 0, 0, 0, 1, 1, 1, 1])
  np.testing.assert_array_equal(mined.distances[4:], np.tile([5, 6, 7, 8], (4, 1)))
  mined = create("expand_positives", max_positives=2)(given)
  assert kinds(mined) == ["pn..", ".np.", "n.np", "...."]
  np.testing.assert_array_equal(mined.anchor, [0, 0, 1, 1])


def test_each_pair_gets_its_own_semihard_negative():
  given = pairs([[1, 4, 2, 5]], ["ppnn"])
  mined = create("expand_positives+semihard_negative", max_positives=2)(given)
  assert kinds(mined) == ["p.n.", ".p.n"]


def test_random_miners_are_uniform_and_independent():
  n = 4000
  given = pairs([[1, 2, 3, 4, 5, 6]] * n, ["pppnn."] * n, jax.random.key(0))
  mined = create("random_positive+random_negative")(given)
  joint = np.einsum("rp,rn->pn", np.asarray(mined.positive), np.asarray(mined.negative), dtype=int)
  assert joint.sum() == n and not joint[3:].any() and not joint[:, [0, 1, 2, 5]].any()
  expected = n / 6
  chi_square = np.sum((joint[:3, 3:5] - expected) ** 2) / expected
  assert chi_square < 20.5  # 5 degrees of freedom: one in a thousand


def test_two_miners_draw_apart_from_one_key():
  positives, negatives = (
    pairs(np.ones((50, 9)), [kind * 9] * 50, jax.random.key(0)) for kind in "pn"
  )
  first = np.argmax(create("random_positive")(positives).positive, axis=1)
  second = np.argmax(create("random_negative")(negatives).negative, axis=1)
  assert np.mean(first == second) < 0.5  # one in nine


def test_a_key_and_an_id_fix_a_draw():
  given = pairs(np.ones((50, 9)), ["p" * 4 + "n" * 5] * 50, jax.random.key(1))
  mine = create("random_positive+random_negative")
  assert kinds(mine(given)) == kinds(mine(given))
  half = jax.tree.map(lambda a: a[25:], given)
  assert kinds(mine(half)) == kinds(mine(given))[25:]
  other = given._replace(keys=jax.random.split(jax.random.key(2), 50))
  assert kinds(mine(other)) != kinds(mine(given))


def test_rows_of_one_anchor_draw_apart():
  given = pairs(np.ones((1, 40)), ["p" * 8 + "n" * 32], jax.random.key(1))
  mined = create("expand_positives+random_negative", max_positives=8)(given)
  chosen = np.argmax(np.asarray(mined.negative), axis=1)
  assert len(set(chosen)) > 4


def test_raw_keys_work_as_typed_ones_do():
  x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) // 3
  mine = mining.create("expand_positives+random_negative", max_positives=2)
  loss = lambda key, b: losses.triplet_loss(x, y, mining_fn=mine, key=key, block_size=b)
  typed = compiled(lambda key: loss(key, None))(jax.random.key(3))
  np.testing.assert_allclose(compiled(lambda key: loss(key, 4))(jax.random.PRNGKey(3)), typed)


def inverse_density(d, dim, cutoff, max_distance):
  """1/q(d) of two random points on the sphere in R^dim, up to a factor, in log space."""
  d = np.maximum(np.asarray(d, np.float64), cutoff)
  log_q = (dim - 2) * np.log(d) + (dim - 3) / 2 * np.log(1 - d**2 / 4)
  weight = np.where(d < max_distance, -log_q, -np.inf)
  weight = np.exp(weight - weight.max())
  return weight / weight.sum()


@pytest.mark.parametrize(("dim", "spread"), [(3, 1.0), (16, 0.25), (2048, 0.002)])
def test_distance_weighted_frequencies(dim, spread):
  """Frequencies follow 1/q(max(d, cutoff)), in 2,048 dimensions too (q spans 1e-600)."""
  n = 6000
  d = 1.0 + spread * np.array([0.0, -0.3, -0.1, 0.1, 0.2, 0.35])
  d[-1] = 0.2 if dim == 3 else d[-1]  # below the cutoff
  row = [0.1, *d, 1.6, 0.9]  # a positive, six candidates, one too far, one masked
  given = pairs([row] * n, ["p" + "n" * 7 + "."] * n, jax.random.key(dim))
  mined = create("distance_weighted_negative", dim=dim)(given)
  counts = np.sum(np.asarray(mined.negative), axis=0)
  assert counts.sum() == n and not counts[[0, 7, 8]].any()
  expected = n * inverse_density(d, dim, 0.5, 1.4)
  assert np.sum((counts[1:7] - expected) ** 2 / expected) < 20.5


def test_distance_weighted_extremes():
  mine = create("distance_weighted_negative", dim=2048)
  keys = jax.random.key(0)
  # Nothing within max_distance: uniform over what there is, never nothing.
  mined = mine(pairs([[1.5, 1.6, 2.0, 0.3]] * 900, ["nnnp"] * 900, keys))
  counts = np.sum(np.asarray(mined.negative), axis=0)
  assert counts.sum() == 900 and counts[3] == 0 and np.all(np.abs(counts[:3] - 300) < 60)
  # Duplicates (0), antipodes (2) and rounding beyond 2 are fine; a near one wins in high dimension.
  mined = mine(pairs([[0.0, 2.0, 2.00001, 1.3]] * 5, ["nnnn"] * 5, keys))
  assert kinds(mined) == ["n..."] * 5
  assert kinds(mine(pairs([[0.0, 1.0]], ["p."], keys))) == ["p."]


@pytest.mark.parametrize("columns", [63, 64, 90, 97, 256])
def test_the_smallest_of_many_columns_is_the_first_of_them(columns):
  """Many columns are searched by stretches: ties within one, between two, and rows without any."""
  rng = np.random.default_rng(columns)
  values = np.float32(rng.integers(0, 6, (200, columns)))
  mask = rng.random((200, columns)) < rng.choice([0.0, 0.02, 0.5, 1.0], (200, 1))
  wanted = np.where(mask.any(1), np.argmin(np.where(mask, values, np.inf), axis=1), columns)
  np.testing.assert_array_equal(compiled(_miner.first_min)(values, mask), wanted)
  wanted = np.where(mask.any(1), np.argmax(np.where(mask, values, -np.inf), axis=1), columns)
  np.testing.assert_array_equal(compiled(_miner.first_max)(values, mask), wanted)


@pytest.mark.parametrize("columns", [1, 63, 256])
def test_an_accelerators_search_finds_what_a_cpus_does(columns):
  rng = np.random.default_rng(columns)
  values = np.float32(rng.integers(-3, 3, (300, columns)))
  values[rng.random(values.shape) < 0.8] = np.inf
  values[0] = np.inf
  found = compiled(_miner._first_by_pairs)(values)
  np.testing.assert_array_equal(found, compiled(_miner._first_by_stretches)(values))
  assert found[0] == columns and found.dtype == jnp.int32


def test_the_loss_reads_its_own_distances_not_the_miners():
  x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) // 3

  def by_distance(given):
    return given._replace(distances=given.distances * 100.0)

  plain = compiled(jax.grad(losses.triplet_loss))(x, y)
  leaky = compiled(jax.grad(functools.partial(losses.triplet_loss, mining_fn=by_distance)))(x, y)
  np.testing.assert_array_equal(plain, leaky)


def test_a_miner_need_not_be_differentiable():
  """It sees distances without gradient: a choice made outside of JAX is a miner too."""
  x, y = np.float32(np.random.default_rng(0).normal(size=(6, 3))), np.arange(6) // 3

  def nearest(distances, mask):
    at = np.argmin(np.where(mask, distances, np.inf), axis=1)
    return np.eye(6, dtype=bool)[at] & mask

  def outside(given):
    like = jax.ShapeDtypeStruct(given.positive.shape, bool)
    kept = jax.pure_callback(nearest, like, given.distances, given.positive)
    return given._replace(positive=kept)

  gradients = [
    compiled(jax.grad(functools.partial(losses.margin_loss, mining_fn=fn)))(x, y)
    for fn in (outside, mining.nearest_positive)
  ]
  np.testing.assert_allclose(*gradients, rtol=1e-5, atol=1e-6)


# What miners state of themselves, which losses rely on.

STATED = {
  name: mining.create(name, **options)
  for name, options in (
    {name: {} for name in mining.MINERS}
    | {"nearest_positives": {"k": 3}, "hardest_negatives": {"k": 2}}
    | {"distance_weighted_negative": {"dim": 8}, "expand_positives": {"max_positives": 3}}
  ).items()
}
WIDER = lambda pairs: pairs._replace(positive=pairs.positive | pairs.negative)
NARROWER = lambda pairs: pairs._replace(negative=pairs.negative & (pairs.distances < 1.0))
CHAINS = {
  "eps_semihard": (mining.nearest_positive, mining.semihard_negative),
  "expanded": (mining.expand_positives(max_positives=2), mining.random_negative),
  "expanded twice": (mining.expand_positives(max_positives=2),) * 2,
  "expanded to all": (mining.hardest_negative, mining.expand_positives()),
  "filtered": (mining.nearest_positives(k=2), mining.multi_similarity_filter(epsilon=0.5)),
  "again": (mining.hardest_negatives(k=4), mining.hardest_negative),
  "a chain in a chain": (mining.chain(mining.nearest_positive), mining.hardest_negatives(k=3)),
  "widened": (mining.nearest_positive, mining.hardest_negative, WIDER),
  "widened, then narrowed": (mining.nearest_positive, WIDER, mining.hardest_negative),
  "narrowed": (mining.nearest_positive, NARROWER),
  "a choice": (mining.nearest_positive, mining.switch(0, mining.hardest_negative)),
  "a choice behind two": (
    mining.nearest_positive, mining.hardest_negative, mining.switch(0, WIDER, mining.all_negatives),
  ),
  "expanded to one": (mining.hardest_negative, mining.expand_positives(max_positives=1)),
}  # fmt: skip
ALL_MINERS = STATED | {name: mining.chain(*fns) for name, fns in CHAINS.items()}


@pytest.mark.parametrize("name", ALL_MINERS)
def test_what_a_miner_states_is_true(name):
  """At most so many positives and negatives a row, all in the columns that it names; its rows."""
  mine, m = ALL_MINERS[name], 12
  rng = np.random.default_rng(7)
  d = rng.integers(0, 6, (200, m)) / 4.0  # full of ties
  before = pairs(d, ["".join(row) for row in rng.choice(list("ppnn."), (200, m))])
  before = before._replace(keys=jax.random.split(jax.random.key(0), 200))
  mined = compiled(mine)(before)
  assert len(mined.anchor) == 200 * (m if mine.rows is None else mine.rows)
  if mine.rows == 1:
    np.testing.assert_array_equal(mined.anchor, np.arange(200))
  for mask, columns, stated in (
    (mined.positive, mined.positive_columns, mine.positives),
    (mined.negative, mined.negative_columns, mine.negatives),
  ):
    if stated is not None:
      assert np.max(np.sum(mask, axis=1)) <= stated
      assert columns.shape == (len(mask), stated)
    if columns is not None:
      named = np.any(np.asarray(columns)[:, :, None] == np.arange(m), axis=1)
      assert not np.any(mask & ~named), "a partner in no column that was named"


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_serves_a_loss_as_its_masks_do(name):
  """Whatever it states, a loss that looks for named columns gets what the masks say."""
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(24, 3)), np.arange(24) // 4
  of = lambda mine: losses.triplet_loss(x, y, mining_fn=mine, key=jax.random.key(1))
  mine = ALL_MINERS[name]
  stated, masks = compiled(lambda: (of(mine), of(lambda pairs: mine(pairs))))()
  np.testing.assert_allclose(stated, masks, rtol=1e-5)
  assert stated > 0


def test_what_each_miner_states():
  """Written down once: less would be true as well, and slow."""
  states = {name: (mine.positives, mine.negatives, mine.rows) for name, mine in ALL_MINERS.items()}
  nothing = (None, None, 1)
  assert states == {
    "all_positives": nothing,
    "nearest_positive": (1, None, 1),
    "nearest_positives": (3, None, 1),
    "hardest_positive": (1, None, 1),
    "random_positive": (1, None, 1),
    "all_negatives": nothing,
    "hardest_negative": (None, 1, 1),
    "hardest_negatives": (None, 2, 1),
    "semihard_negative": (None, 1, 1),
    "random_negative": (None, 1, 1),
    "distance_weighted_negative": (None, 1, 1),
    "multi_similarity_filter": nothing,
    "expand_positives": (1, None, 3),
    "eps_semihard": (1, 1, 1),
    "expanded": (1, 1, 2),
    "expanded twice": (1, None, 4),
    "expanded to all": (1, 1, None),
    "filtered": (2, None, 1),
    "again": (None, 1, 1),
    "a chain in a chain": (1, 3, 1),
    "widened": nothing,
    "widened, then narrowed": (None, 1, 1),
    "narrowed": nothing,
    "a choice": nothing,
    "a choice behind two": nothing,
    "expanded to one": (1, 1, 1),
  }


def test_the_catalogue_lists_makers_with_their_options():
  for name, entry in mining.MINERS.items():
    if isinstance(entry, mining.Maker):
      parameters = inspect.signature(entry.make).parameters
      assert entry.make is getattr(mining, name) and entry.options == tuple(parameters)
      empty = inspect.Parameter.empty
      assert entry.needed == tuple(k for k, v in parameters.items() if v.default is empty)
    else:
      assert entry is getattr(mining, name) and entry.name == name
