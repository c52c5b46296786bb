"""Every family of vision transformers against timm and transformers, small, from their own files.

UNICOM is in neither: its peer is written here after the authors' description of it.
"""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdml import models
from jaxdml.models.vit_layers import resize_positions
from jaxdml.models.vit_published import tidied
from jaxdml.pretrained import conversion, files
from tests.parity import torch_models

torch = torch_models.torch
F = torch.nn.functional
TOLERANCE = 1e-5
WIDTH, DEPTH, HEADS = 32, 2, 2
SMALL = {"width": WIDTH, "depth": DEPTH, "heads": HEADS}


def timm_vit(name, **kwargs):
  create = torch_models.peer("timm").create_model
  small = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "num_classes": 0}
  module = torch_models.randomize(create(name, dynamic_img_size=True, **small | kwargs), seed=2)

  def forward(images):
    tokens = module.forward_features(images)
    return module.forward_head(tokens), tokens

  return types.SimpleNamespace(module=module, forward=forward)


def transformers_vit(kind, patch, grid, **kwargs):
  torch_models.peer("timm")  # It defines what transformers needs of torchvision, too.
  library = torch_models.peer("transformers")
  sizes = {
    "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
    "patch_size": patch, "image_size": patch * grid,
  }  # fmt: skip
  config = getattr(library, f"{kind}Config")(**sizes | kwargs)
  make = {"CLIPVision": "CLIPVisionModelWithProjection"}.get(kind, f"{kind}Model")
  module = torch_models.randomize(getattr(library, make)(config), seed=3)
  resized = (
    {"interpolate_pos_encoding": True} if kind in ("ViT", "SiglipVision", "CLIPVision") else {}
  )

  def forward(images):
    if kind == "CLIPVision":
      found = module.vision_model(pixel_values=images, **resized)
      tokens = module.vision_model.post_layernorm(found.last_hidden_state)
      return found.pooler_output, tokens
    found = module(pixel_values=images, **resized)
    pooled = found.last_hidden_state[:, 0] if kind == "ViT" else found.pooler_output
    return pooled, found.last_hidden_state

  return types.SimpleNamespace(module=module, forward=forward)


class Unicom(torch.nn.Module):
  """Patches, pre-norm blocks with ReLU6, a normalisation; all tokens through two dense layers."""

  def __init__(self, width, depth, heads, patch, grid, features):
    super().__init__()
    nn = torch.nn
    tokens = grid * grid
    self.heads = heads
    self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
    self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
    block = lambda: nn.ModuleDict(
      {
        "norm1": nn.LayerNorm(width), "norm2": nn.LayerNorm(width),
        "attn": nn.ModuleDict(
          {"qkv": nn.Linear(width, 3 * width, bias=False), "proj": nn.Linear(width, width)}
        ),
        "mlp": nn.ModuleDict(
          {"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)}
        ),
      }
    )  # fmt: skip
    self.blocks = nn.ModuleList([block() for _ in range(depth)])
    self.norm = nn.LayerNorm(width)
    self.feature = nn.Sequential(
      nn.Linear(width * tokens, width, bias=False), nn.BatchNorm1d(width, eps=2e-5),
      nn.Linear(width, features, bias=False), nn.BatchNorm1d(features, eps=2e-5),
    )  # fmt: skip

  def tokens(self, images):
    x = self.patch_embed["proj"](images).flatten(2).mT + self.pos_embed
    for block in self.blocks:
      q, k, v = (
        part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        for part in block["attn"]["qkv"](block["norm1"](x)).chunk(3, dim=-1)
      )
      y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
      x = x + block["attn"]["proj"](y)
      y = F.relu6(block["mlp"]["fc1"](block["norm2"](x)))
      x = x + block["mlp"]["fc2"](y)
    return self.norm(x)


def unicom(width=WIDTH, depth=DEPTH, heads=HEADS, patch=8, grid=3, features=24):
  module = torch_models.randomize(Unicom(width, depth, heads, patch, grid, features), seed=4)

  def forward(images):
    tokens = module.tokens(images)
    return module.feature(tokens.flatten(1)), tokens

  return types.SimpleNamespace(module=module, forward=forward)


SWIGLU = {"hidden": 88}
# Name: a registered encoder, its options, a maker of the peer, the interpolation of the peer.
PEERS = {
  "vit, timm": (
    "vit_s16", {"grid": 3}, lambda: timm_vit("vit_small_patch16_224", img_size=48), "antialias"),
  "vit, transformers": (
    "vit_s16", {"grid": 3},
    lambda: transformers_vit("ViT", 16, 3, intermediate_size=4 * WIDTH, layer_norm_eps=1e-6),
    "plain"),
  "dinov2, timm": (
    "dinov2_s14", {"grid": 3}, lambda: timm_vit("vit_small_patch14_dinov2", img_size=42),
    "antialias"),
  "dinov2, transformers": (
    "dinov2_s14", {"grid": 3}, lambda: transformers_vit("Dinov2", 14, 3), "plain"),
  "dinov2 g, timm": (
    "dinov2_g14_reg", {"grid": 3, "hidden": 85},
    lambda: timm_vit("vit_giant_patch14_reg4_dinov2", img_size=42), "antialias"),
  "dinov2 g, transformers": (
    "dinov2_g14", {"grid": 3, **SWIGLU},
    lambda: transformers_vit("Dinov2", 14, 3, use_swiglu_ffn=True), "plain"),
  "dinov2 with registers, timm": (
    "dinov2_s14_reg", {"grid": 3}, lambda: timm_vit("vit_small_patch14_reg4_dinov2", img_size=42),
    "antialias"),
  "dinov2 with registers, transformers": (
    "dinov2_s14_reg", {"grid": 3}, lambda: transformers_vit("Dinov2WithRegisters", 14, 3),
    "antialias"),
  "dinov3, timm": (
    "dinov3_s16", {}, lambda: timm_vit("vit_small_patch16_dinov3", global_pool="token"), None),
  "dinov3 with biases, timm": (
    "dinov3_s16", {}, lambda: timm_vit("vit_small_patch16_dinov3_qkvb", global_pool="token"),
    None),
  "dinov3, transformers": (
    "dinov3_s16", {},
    lambda: transformers_vit(
      "DINOv3ViT", 16, 3, intermediate_size=4 * WIDTH, num_register_tokens=4), None),
  "dinov3 plus, timm": (
    "dinov3_s16plus", {}, lambda: timm_vit("vit_small_plus_patch16_dinov3", global_pool="token"),
    None),
  "dinov3 plus, transformers": (
    "dinov3_h16plus", {},
    lambda: transformers_vit(
      "DINOv3ViT", 16, 3, intermediate_size=4 * WIDTH, num_register_tokens=4, use_gated_mlp=True,
      hidden_act="silu"), None),
  "siglip, timm": (
    "siglip_b16", {"grid": 3},
    lambda: timm_vit("vit_base_patch16_siglip_224", img_size=48, act_layer="gelu_tanh"),
    "antialias"),
  "siglip, transformers": (
    "siglip2_b16", {"grid": 3},
    lambda: transformers_vit("SiglipVision", 16, 3, intermediate_size=4 * WIDTH), "plain"),
  "clip, timm": (
    "clip_b16", {"grid": 3},
    lambda: timm_vit("vit_base_patch16_clip_quickgelu_224", img_size=48), "antialias"),
  "clip, transformers": (
    "clip_b16", {"grid": 3},
    lambda: transformers_vit(
      "CLIPVision", 16, 3, intermediate_size=4 * WIDTH, projection_dim=12), "plain"),
  "openclip, timm": (
    "openclip_b16", {"grid": 3}, lambda: timm_vit("vit_base_patch16_clip_224", img_size=48),
    "antialias"),
  "unicom, written here": ("unicom_b16", {"patch": 8, "grid": 3, "flat_dim": 24}, unicom, None),
}  # fmt: skip


def own_poolings(encoder, height, width):
  """All that an encoder of this family has at this size; its own head needs weights of its own."""
  kinds = {"avg", "max", "avg+max", "gem", "none", encoder.pooling}
  kinds |= {"token", "token+avg"} if encoder.class_token else set()
  if (height, width) != (encoder.patch * encoder.grid,) * 2:
    kinds -= {"flat"}
  return sorted(kinds)


def reference(kind, pooled, patches, prefix):
  """The pooling of tokens [n, t, c] in PyTorch; `pooled` is what the peer itself makes of them."""
  token, patches = patches[:, 0], patches[:, prefix:]
  average, largest = patches.mean(1), patches.amax(1)
  return {
    "token": token, "avg": average, "max": largest, "avg+max": average + largest,
    "token+avg": torch.cat([token, average], -1), "none": patches, "map": pooled, "flat": pooled,
    "gem": patches.clamp(min=1e-6).pow(3).mean(1).pow(1 / 3),
  }[kind]  # fmt: skip


def images_of(height, width, n=2):
  square, _ = torch_models.pixels(max(height, width), n)
  images = square[:, :height, :width]
  return images, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@functools.lru_cache
def program(encoder, kinds):
  def run(weights, images):
    found = {}
    for kind in kinds:
      pool = weights["params"].get("pool", {}) if kind == encoder.pooling else {"p": jnp.array(3.0)}
      params = {**weights["params"], "pool": pool}
      variables = {"params": params, "batch_stats": weights["batch_stats"]}
      found[kind] = encoder.clone(pooling=kind).apply(variables, images, train=False)
    return found

  return jax.jit(run)


def weights_of(encoder, arch, state):
  return conversion.rename(encoder, models.ENCODERS[arch].published, state)


def compare(encoder, weights, peer, height, width):
  """Largest relative difference by pooling."""
  images, tensor = images_of(height, width)
  with torch.no_grad():
    pooled, tokens = peer.forward(tensor)
  kinds = tuple(own_poolings(encoder, height, width))
  found = program(encoder, kinds)(weights, images)
  prefix = encoder.class_token + encoder.registers
  differences = {}
  for kind in kinds:
    expected = reference(kind, pooled, tokens, prefix)
    ours = np.asarray(found[kind]).reshape(expected.shape)
    differences[kind] = torch_models.difference(ours, expected)
  if encoder.pooling == "token":
    differences["own"] = torch_models.difference(found["token"], pooled)
  return differences


@pytest.mark.parametrize("name", PEERS)
def test_every_pooling_at_two_sizes(name):
  arch, options, make, interpolation = PEERS[name]
  peer = make()
  if interpolation:
    options = options | {"interpolation": interpolation}
  encoder = models.ENCODERS[arch].make(**options | SMALL)
  weights = weights_of(encoder, arch, torch_models.state_of(peer.module))
  grid = encoder.grid or 3
  sizes = [(grid, grid)] if encoder.pooling == "flat" else [(grid, grid), (2, 5)]
  for rows, columns in sizes:
    found = compare(encoder, weights, peer, encoder.patch * rows, encoder.patch * columns)
    print(f"{name}, {rows}x{columns} patches:", " ".join(f"{k} {v:.1e}" for k, v in found.items()))
    assert max(found.values()) <= TOLERANCE, found


def test_options_that_no_published_family_has():
  """Normalised queries and keys; the last normalisation after the average (timm's fc_norm)."""
  peer = timm_vit(
    "vit_small_patch16_224", img_size=48, qk_norm=True, global_pool="avg", fc_norm=True
  )
  options = {"grid": 3, "qk_norm": True, "norm_after": True, "pooling": "avg"}
  encoder = models.create("vit_s16").clone(**options | SMALL)
  weights = weights_of(encoder, "vit_s16", torch_models.state_of(peer.module))
  images, tensor = images_of(48, 48)
  with torch.no_grad():
    expected, _ = peer.forward(tensor)
  found = jax.jit(functools.partial(encoder.apply, train=False))(weights, images)
  assert torch_models.difference(found, expected) <= TOLERANCE


@pytest.mark.parametrize("rows, columns", [(2, 2), (3, 7), (9, 5)])
def test_positions_as_dino_s_own_code_resizes_them(rows, columns):
  """Bicubic by a factor of (side + 0.1) / grid, which PyTorch then takes for its coordinates."""
  positions = np.random.default_rng(0).normal(size=(1, 16, 6)).astype(np.float32)
  square = torch.from_numpy(positions).reshape(1, 4, 4, 6).permute(0, 3, 1, 2)
  factors = tuple((side + 0.1) / 4 for side in (rows, columns))
  expected = F.interpolate(square, scale_factor=factors, mode="bicubic").permute(0, 2, 3, 1)
  found = resize_positions(jnp.asarray(positions), 4, rows, columns, "dino")
  assert torch_models.difference(np.asarray(found), expected.reshape(1, -1, 6)) <= TOLERANCE


@pytest.mark.parametrize("name", [name for name in PEERS if name.endswith("transformers")])
def test_the_files_that_transformers_writes(name, tmp_path):
  """Of other names than its modules have: those of the hub's files, from before version 5."""
  module = PEERS[name][2]().module
  module.save_pretrained(tmp_path)
  expected = tidied(torch_models.state_of(module))
  found = tidied(files.read(tmp_path / "model.safetensors"))
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    np.testing.assert_array_equal(found[key], array)


@pytest.mark.parametrize(("kind", "arch"), [("CLIP", "clip_b16"), ("Siglip", "siglip_b16")])
def test_text_towers_of_whole_models_are_passed_over(kind, arch):
  torch_models.peer("timm")
  library = torch_models.peer("transformers")
  sizes = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
           "intermediate_size": 4 * WIDTH}  # fmt: skip
  text = sizes | {"vocab_size": 9, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
  vision = sizes | {"patch_size": 16, "image_size": 48}
  config = getattr(library, f"{kind}Config")(vision_config=vision, text_config=text)
  module = torch_models.randomize(getattr(library, f"{kind}Model")(config))
  state = torch_models.state_of(module)
  assert any(name.startswith("text_model.encoder.layers.0.") for name in state)
  encoder = models.ENCODERS[arch].make(grid=3, **SMALL)
  weights = weights_of(encoder, arch, state)
  assert bool(weights["classifier"]) == (kind == "CLIP")
  kernel = weights["params"]["block1"]["fc1"]["kernel"]
  name = "vision_model.encoder.layers.1.mlp.fc1.weight"
  np.testing.assert_array_equal(kernel, state[name].T)


def openai_s(state):
  """timm's names of an image tower as OpenAI and OpenCLIP have them, and a text tower beside."""
  found = {"visual.proj": state.pop("head.weight").T.copy(), "logit_scale": np.zeros(())}
  state.pop("head.bias")
  for old, new in (
    ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("norm_pre", "ln_pre"),
    ("cls_token", "class_embedding"), ("norm1", "ln_1"), ("norm2", "ln_2"), ("norm.", "ln_post."),
    ("blocks", "transformer.resblocks"), ("attn.qkv.", "attn.in_proj_"), ("fc1", "c_fc"),
    ("attn.proj", "attn.out_proj"), ("fc2", "c_proj"),
  ):  # fmt: skip
    state = {name.replace(old, new): array for name, array in state.items()}
  for name, array in state.items():
    single = name in ("class_embedding", "positional_embedding")
    found[f"visual.{name}"] = (
      array.reshape(array.shape[1 + (name == "class_embedding") :]) if single else array
    )
    if name.startswith("transformer"):
      found[name] = np.zeros(3)
  return found | {"token_embedding.weight": np.zeros((5, 3)), "positional_embedding": np.zeros(3)}


def test_openai_s_and_openclip_s_names():
  module = timm_vit("vit_base_patch16_clip_224", img_size=48, num_classes=12).module
  state = torch_models.state_of(module)
  state["head.bias"] = np.zeros(12, np.float32)
  expected, found = tidied(state), tidied(openai_s(dict(state)))
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    np.testing.assert_array_equal(found[key], array)


def test_meta_s_dinov3_names():
  """Fused biases with a mask for the keys', storage tokens, and SwiGLU as w1, w2, w3."""
  state = torch_models.state_of(timm_vit("vit_small_plus_patch16_dinov3_qkvb").module)
  expected = tidied(state)
  meta = {"rope_embed.periods": np.ones(4), "mask_token": np.zeros((1, WIDTH))}
  for name, array in state.items():
    if name.endswith(("q_bias", "v_bias")):
      continue
    for old, new in (
      ("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma"),
      ("fc1_g", "w1"), ("fc1_x", "w2"), ("fc2", "w3"),
    ):  # fmt: skip
      name = name.replace(old, new)
    meta[name] = array
  for block in range(DEPTH):
    q, v = (state[f"blocks.{block}.attn.{part}_bias"] for part in "qv")
    meta[f"blocks.{block}.attn.qkv.bias"] = np.concatenate([q, np.full(WIDTH, np.nan), v])
    meta[f"blocks.{block}.attn.qkv.bias_mask"] = np.ones(3 * WIDTH)
  found = tidied(meta)
  assert found.keys() == expected.keys()
  for key, array in expected.items():
    np.testing.assert_array_equal(found[key], array)


VITS = [name for name in models.ENCODERS if isinstance(models.create(name), models.ViT)]


@pytest.mark.parametrize("arch", VITS)
def test_names_and_shapes_of_the_published_file(arch):
  """What the converter expects is what timm's true model has; nothing is computed or downloaded."""
  encoder, published = models.create(arch, scan=True), models.ENCODERS[arch].published
  if published.hub:
    with torch.device("meta"):
      name = published.hub.removeprefix("timm/").split(".")[0]
      module = torch_models.peer("timm").create_model(name)
  else:
    sizes = (encoder.width, encoder.depth, encoder.heads, encoder.patch, encoder.grid)
    with torch.device("meta"):
      module = Unicom(*sizes, encoder.flat_dim)
  state = {
    name: np.broadcast_to(np.float32(0), tuple(tensor.shape))
    for name, tensor in module.state_dict().items()
  }
  found = {name: array.shape for name, array in tidied(state).items()}
  found = {name: shape for name, shape in found.items() if name not in published.classifier}
  assert found == {
    published.name_of(path): conversion.source_shape(path, leaf.shape)
    for path, leaf in conversion.leaves(encoder).items()
  }
  fit = [name for name in VITS if models.ENCODERS[name].published.fits(tidied(state))]
  assert arch in fit and len(fit) <= 4  # CLIP's and OpenCLIP's, SigLIP's and SigLIP2's, ...


BFLOAT16 = 0.05


@pytest.mark.parametrize(
  "name", [name for name in PEERS if name.endswith(("timm", "here")) and "biases" not in name]
)
def test_bfloat16(name):
  arch, options, make, interpolation = PEERS[name]
  peer = make()
  options = options | {"interpolation": interpolation or "antialias", "dtype": jnp.bfloat16}
  encoder = models.ENCODERS[arch].make(**options | SMALL)
  weights = weights_of(encoder, arch, torch_models.state_of(peer.module))
  side = encoder.patch * (encoder.grid or 3)
  images, tensor = images_of(side, side)
  with torch.no_grad():
    expected, _ = peer.forward(tensor)
  found = jax.jit(functools.partial(encoder.apply, train=False))(weights, images)
  difference = torch_models.difference(found, expected)
  print(f"{name}: bfloat16 {difference:.1e}")
  assert 1e-4 < difference <= BFLOAT16


WHOLE = {
  "dinov2_s14_reg": ({}, 56), "dinov3_s16plus": ({"global_pool": "token"}, 64),
  "siglip_b16": ({"act_layer": "gelu_tanh"}, 64), "openclip_b32": ({}, 224),
  "unicom_b32": ({}, 224),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("arch", WHOLE)
def test_whole(arch):
  """One member of each family at its true size (DeiT's and DINOv2's are in test_vit.py)."""
  options, side = WHOLE[arch]
  encoder, published = models.create(arch), models.ENCODERS[arch].published
  sizes = {"embed_dim": encoder.width, "depth": encoder.depth, "num_heads": encoder.heads}
  if published.hub:
    peer = timm_vit(published.hub.removeprefix("timm/").split(".")[0], **sizes | options)
  else:
    peer = unicom(encoder.width, encoder.depth, encoder.heads, 32, 7, encoder.flat_dim)
  weights = weights_of(encoder, arch, torch_models.state_of(peer.module))
  images, tensor = images_of(side, side)
  with torch.no_grad():
    expected, _ = peer.forward(tensor)
  found = jax.jit(functools.partial(encoder.apply, train=False))(weights, images)
  difference = torch_models.difference(found, expected)
  print(f"{arch}, {side} pixels: {difference:.1e}")
  assert difference <= TOLERANCE
