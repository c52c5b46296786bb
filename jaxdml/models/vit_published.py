"""Vision transformers with published weights: a table of them, and their files' names."""

import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from jaxdml.models.base import Preprocessing, Published, State, register, torch_leaf
from jaxdml.models.vit import ViT

_BLOCK = {
  "qkv": "attn.qkv", "proj": "attn.proj", "q_norm": "attn.q_norm", "k_norm": "attn.k_norm",
  "fc1": "mlp.fc1", "fc1_g": "mlp.fc1_g", "fc1_x": "mlp.fc1_x", "fc2": "mlp.fc2",
}  # fmt: skip
_POOL = {
  "fc1": "attn_pool.mlp.fc1", "fc2": "attn_pool.mlp.fc2", "reduce": "feature.0",
  "reduce_norm": "feature.1", "embed": "feature.2", "embed_norm": "feature.3",
}  # fmt: skip
_LEAVES = {
  "class_token": "cls_token", "position_embedding": "pos_embed", "ls1": "ls1.gamma",
  "ls2": "ls2.gamma", "q_bias": "attn.q_bias", "v_bias": "attn.v_bias", "latent": "latent",
  "register_tokens": "register_tokens",
}  # fmt: skip


def _name_of(path: tuple[str, ...]) -> str:
  """("params", "block3", "fc1", "kernel") -> "blocks.3.mlp.fc1.weight", which is timm's name."""
  module, *inner = path[1:-1] or ("",)
  leaf = _LEAVES.get(path[-1]) or torch_leaf(path[-1])
  if module == "pool":
    part = _POOL.get(inner[0], f"attn_pool.{inner[0]}") if inner else "attn_pool"
    return f"{part}.{leaf}"
  if match := re.fullmatch(r"block(\d+)", module):
    return ".".join((f"blocks.{match[1]}", *(_BLOCK.get(part, part) for part in inner), leaf))
  return ".".join(filter(None, ({"patch_embed": "patch_embed.proj"}.get(module, module), leaf)))


_IGNORED = (
  # Used in pre-training alone, or made anew from the sizes.
  r"(?:.*\.)?mask_token|(?:.*\.)?position_ids|rope_embed\..*|.*\.bias_mask|(?:.*\.)?pooler\..*|"
  r".*\.num_batches_tracked|"
  # The text towers of CLIP and SigLIP, in the files of transformers, OpenAI and OpenCLIP.
  r"(?:text|text_model|transformer|token_embedding|ln_final)\..*|text_projection(?:\..*)?|"
  r"positional_embedding|logit_scale|logit_bias|attn_mask|input_resolution|context_length|"
  r"vocab_size"
)
_ignored = re.compile(_IGNORED).fullmatch

# Names of transformers (as its files have them, before version 5 and since), DINOv2 and v3, OpenAI
# and OpenCLIP, in this order, to timm's.
_RENAMED = [
  (re.compile(pattern), name)
  for pattern, name in (
    (r"^visual\.trunk\.", ""),
    (r"^visual\.transformer\.resblocks\.", "blocks."),
    (r"^visual\.conv1\.", "patch_embed.proj."),
    (r"^visual\.class_embedding$", "cls_token"),
    (r"^visual\.positional_embedding$", "pos_embed"),
    (r"^visual\.ln_pre\.", "norm_pre."),
    (r"^visual\.ln_post\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^(?:vit|deit|dinov2\w*|vision_model)\.", ""),
    (r"^(?:encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\1."),
    (r"^embeddings\.(?:cls_token|class_embedding)$", "cls_token"),
    (r"^(?:embeddings\.register_tokens|reg_token|storage_tokens)$", "register_tokens"),
    (r"^embeddings\.position_embeddings?(?:\.weight)?$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?\.(?:projection\.)?", "patch_embed.proj."),
    (r"^(?:(?:post_)?layernorm|fc_norm)\.", "norm."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(?:classifier|visual_projection)\.", "head."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj_"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
    (r"\.(?:layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(?:layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.(?:layer_scale([12])\.lambda1|gamma_([12]))$", r".ls\1\2.gamma"),
    (r"\.(?:attention\.attention|attention|self_attn)\.([qkv])(?:uery|ey|alue|_proj)\.",
     r".attn.\1."),
    (r"\.(?:attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\d)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.mlp\.(?:weights_in|w12)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:weights_out|w3|down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.(?:gate_proj|w1)\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
  )
]  # fmt: skip


def tidied(state: State) -> State:
  """Returns the arrays of any family's file by timm's names, in one shape for each.

  Attention's three matrices are one, the two of a SwiGLU are two, a position stands for the class
  token too, text towers are left out, CLIP's projection is a classifier without bias (0). DINOv3's
  files without biases of queries and values (timm's) get zeros, which the others hold.
  """
  found: dict[str, np.ndarray] = {}
  for name, array in state.items():
    if _ignored(name):
      continue
    if name == "visual.proj":
      name, array = "head.weight", array.T
    for pattern, new in _RENAMED:
      name = pattern.sub(new, name)
    found[name] = array
  for name in [n for n in found if n.endswith((".mlp.up_proj.weight", ".mlp.up_proj.bias"))]:
    gated = name.replace("up_proj", "fc1_g") in found
    found[name.replace("up_proj", "fc1_x" if gated else "fc1")] = found.pop(name)
  for name in [n for n in found if n.endswith(".norm1.weight")]:
    _tidy_block(found, name.removesuffix("norm1.weight"), masked_keys="rope_embed.periods" in state)
  for kind in ("weight", "bias"):
    if (packed := found.pop(f"attn_pool.in_proj_{kind}", None)) is not None:
      third = len(packed) // 3
      found[f"attn_pool.q.{kind}"], found[f"attn_pool.kv.{kind}"] = packed[:third], packed[third:]
  _tidy_tokens(found)
  if "head.weight" in found and "head.bias" not in found:
    found["head.bias"] = np.zeros(len(found["head.weight"]), np.float32)
  return found


def _tidy_block(found: dict[str, np.ndarray], block: str, masked_keys: bool) -> None:
  names = {f"{part}.{kind}": f"{block}attn.{part}.{kind}" for part in "qkv"
           for kind in ("weight", "bias")}  # fmt: skip
  parts = {part: found.pop(name) for part, name in names.items() if name in found}
  for kind in ("weight", "bias"):
    three = [parts.pop(f"{part}.{kind}", None) for part in "qkv"]
    if all(array is not None for array in three):
      found[f"{block}attn.qkv.{kind}"] = np.concatenate(three)
    elif kind == "bias" and three[1] is None and three[0] is not None and three[2] is not None:
      found[f"{block}attn.q_bias"], found[f"{block}attn.v_bias"] = three[0], three[2]
    else:  # Named as missing and left over by whoever compares.
      found |= {names[f"{p}.{kind}"]: a for p, a in zip("qkv", three, strict=True) if a is not None}
  bias = f"{block}attn.qkv.bias"
  if masked_keys and bias in found:
    packed = found.pop(bias)
    third = len(packed) // 3
    found[f"{block}attn.q_bias"], found[f"{block}attn.v_bias"] = packed[:third], packed[2 * third :]
  qkv = found.get(f"{block}attn.qkv.weight")
  if qkv is not None and "pos_embed" not in found and bias not in found:
    for name in ("q_bias", "v_bias"):
      found.setdefault(f"{block}attn.{name}", np.zeros(len(qkv) // 3, np.float32))
  packed, out = found.get(f"{block}mlp.fc1.weight"), found.get(f"{block}mlp.fc2.weight")
  if packed is not None and out is not None and len(packed) == 2 * out.shape[-1]:
    for kind in ("weight", "bias"):
      if (array := found.pop(f"{block}mlp.fc1.{kind}", None)) is not None:
        half = len(array) // 2
        found[f"{block}mlp.fc1_g.{kind}"], found[f"{block}mlp.fc1_x.{kind}"] = (
          array[:half], array[half:],
        )  # fmt: skip


def _tidy_tokens(found: dict[str, np.ndarray]) -> None:
  token, positions = found.get("cls_token"), found.get("pos_embed")
  if token is not None and token.ndim == 1:
    found["cls_token"] = token[None, None]
  if positions is None:
    return
  if positions.ndim == 2:
    positions = positions[None]
  square = positions.ndim == 3 and round(positions.shape[1] ** 0.5) ** 2 == positions.shape[1]
  if token is not None and square:
    # The class token's position is within the token, as timm has it where there are registers.
    positions = np.concatenate([np.zeros_like(positions[:, :1]), positions], axis=1)
  found["pos_embed"] = positions


def _fits(fields: dict[str, Any], state: State) -> bool:
  """A cheap look: False where `tidied` arrays are not of a ViT with these fields."""
  width, patch, depth = fields["width"], fields["patch"], fields.get("depth", ViT.depth)
  kernel = state.get("patch_embed.proj.weight")
  blocks = [f"blocks.{index}.norm1.weight" in state for index in (depth - 1, depth)]
  flat = "feature.0.weight" in state
  return (
    blocks == [True, False]
    and kernel is not None
    and kernel.shape == (width, 3, patch, patch)
    and ("register_tokens" in state) == bool(fields.get("registers"))
    and ("norm_pre.weight" in state) == fields.get("pre_norm", False)
    and ("attn_pool.latent" in state) == (fields.get("pooling") == "map")
    and flat == (fields.get("pooling") == "flat")
  )


_SIZES: dict[str, dict[str, int]] = {
  "small": {"width": 384, "heads": 6},
  "base": {"width": 768, "heads": 12},
  "large": {"width": 1024, "depth": 24, "heads": 16},
  "so400m": {"width": 1152, "depth": 27, "heads": 16, "hidden": 4304},
  "huge": {"width": 1280, "depth": 32, "heads": 20},
  "giant": {"width": 1536, "depth": 40, "heads": 24},
}

_HALF = ((0.5,) * 3, (0.5,) * 3)
_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_whole = partial(Preprocessing, crop_pct=1.0, interpolation="bicubic")


class _Family(NamedTuple):
  fields: dict[str, Any]
  pixels: Preprocessing


_DINOV2: dict[str, Any] = {"patch": 14, "grid": 37, "layer_scale": 1e-5}
_DINOV3: dict[str, Any] = {
  "patch": 16, "grid": 0, "layer_scale": 1e-5, "registers": 4, "rope": 100.0, "qkv_bias": "qv",
  "epsilon": 1e-5,
}  # fmt: skip
# OpenAI's and OpenCLIP's features before the projection, which is kept as the classifier.
_CLIP: dict[str, Any] = {"patch": 16, "grid": 14, "pre_norm": True, "epsilon": 1e-5}
_FAMILIES = {
  "vit": _Family({"patch": 16}, Preprocessing(interpolation="bicubic")),
  "augreg": _Family({"patch": 16}, Preprocessing(*_HALF, crop_pct=0.9, interpolation="bicubic")),
  "dinov2": _Family(_DINOV2 | {"interpolation": "dino"}, Preprocessing(interpolation="bicubic")),
  "dinov2_reg": _Family(_DINOV2 | {"registers": 4}, Preprocessing(interpolation="bicubic")),
  "dinov3": _Family(_DINOV3, _whole(image_size=256)),
  # Google's own activation; timm takes the exact one for the files of 2023 (B, L and So400m/14).
  "siglip": _Family(
    {"patch": 16, "grid": 14, "class_token": False, "pooling": "map", "activation": "gelu_tanh"},
    _whole(*_HALF),
  ),
  "clip": _Family(_CLIP | {"activation": "quick_gelu"}, _whole(*_OPENAI)),
  "openclip": _Family(_CLIP, _whole(*_OPENAI)),
  "unicom": _Family(
    {"patch": 16, "grid": 14, "class_token": False, "pooling": "flat", "activation": "relu6",
     "epsilon": 1e-5, "qkv_bias": "none", "flat_dim": 768},
    _whole(*_OPENAI),
  ),
}  # fmt: skip

_SWIGLU: dict[str, Any] = {"activation": "swiglu"}
_P14: dict[str, Any] = {"patch": 14, "grid": 16}
_P32: dict[str, Any] = {"patch": 32, "grid": 7}
_AT256: dict[str, Any] = {"grid": 16}
_G = _SWIGLU | {"hidden": 4096}
_W256 = _whole(*_HALF, image_size=256)

# Name; family; size; what differs from them; timm's model on the hub, or ""; other files, for
# people; pixels, where they are not the family's.
_TABLE: tuple[tuple[str, str, str, dict[str, Any], str, str, Preprocessing | None], ...] = (
  ("vit_s16", "vit", "small", {}, "deit_small_patch16_224.fb_in1k",
   "DeiT's deit_small_patch16_224-*.pth, DINO's dino_deitsmall16_pretrain.pth", None),
  ("vit_b16", "vit", "base", {}, "deit_base_patch16_224.fb_in1k",
   "DeiT's deit_base_patch16_224-*.pth, DINO's dino_vitbase16_pretrain.pth", None),
  ("vit_s16_augreg", "augreg", "small", {}, "vit_small_patch16_224.augreg_in21k",
   "timm's other vit_small_patch16_224.augreg_*", None),
  ("vit_b16_augreg", "augreg", "base", {}, "vit_base_patch16_224.augreg2_in21k_ft_in1k",
   "google/vit-base-patch16-224, timm's other vit_base_patch16_224.augreg*", None),
  ("dinov2_s14", "dinov2", "small", {}, "vit_small_patch14_dinov2.lvd142m",
   "DINOv2's dinov2_vits14_pretrain.pth, facebook/dinov2-small", None),
  ("dinov2_b14", "dinov2", "base", {}, "vit_base_patch14_dinov2.lvd142m",
   "DINOv2's dinov2_vitb14_pretrain.pth, facebook/dinov2-base", None),
  ("dinov2_l14", "dinov2", "large", {}, "vit_large_patch14_dinov2.lvd142m",
   "DINOv2's dinov2_vitl14_pretrain.pth, facebook/dinov2-large", None),
  ("dinov2_g14", "dinov2", "giant", _G, "vit_giant_patch14_dinov2.lvd142m",
   "DINOv2's dinov2_vitg14_pretrain.pth, facebook/dinov2-giant", None),
  ("dinov2_s14_reg", "dinov2_reg", "small", {}, "vit_small_patch14_reg4_dinov2.lvd142m",
   "DINOv2's dinov2_vits14_reg4_pretrain.pth, facebook/dinov2-with-registers-small", None),
  ("dinov2_b14_reg", "dinov2_reg", "base", {}, "vit_base_patch14_reg4_dinov2.lvd142m",
   "DINOv2's dinov2_vitb14_reg4_pretrain.pth, facebook/dinov2-with-registers-base", None),
  ("dinov2_l14_reg", "dinov2_reg", "large", {}, "vit_large_patch14_reg4_dinov2.lvd142m",
   "DINOv2's dinov2_vitl14_reg4_pretrain.pth, facebook/dinov2-with-registers-large", None),
  ("dinov2_g14_reg", "dinov2_reg", "giant", _G, "vit_giant_patch14_reg4_dinov2.lvd142m",
   "DINOv2's dinov2_vitg14_reg4_pretrain.pth, facebook/dinov2-with-registers-giant", None),
  ("dinov3_s16", "dinov3", "small", {}, "vit_small_patch16_dinov3.lvd1689m",
   "DINOv3's dinov3_vits16_*.pth, facebook/dinov3-vits16-pretrain-lvd1689m", None),
  ("dinov3_s16plus", "dinov3", "small", _SWIGLU, "vit_small_plus_patch16_dinov3.lvd1689m",
   "DINOv3's dinov3_vits16plus_*.pth, facebook/dinov3-vits16plus-pretrain-lvd1689m", None),
  ("dinov3_b16", "dinov3", "base", {}, "vit_base_patch16_dinov3.lvd1689m",
   "DINOv3's dinov3_vitb16_*.pth, facebook/dinov3-vitb16-pretrain-lvd1689m", None),
  ("dinov3_l16", "dinov3", "large", {}, "vit_large_patch16_dinov3.lvd1689m",
   "DINOv3's dinov3_vitl16_*.pth, facebook/dinov3-vitl16-pretrain-lvd1689m", None),
  ("dinov3_h16plus", "dinov3", "huge", _SWIGLU, "vit_huge_plus_patch16_dinov3.lvd1689m",
   "DINOv3's dinov3_vith16plus_*.pth, facebook/dinov3-vith16plus-pretrain-lvd1689m", None),
  ("siglip_b16", "siglip", "base", {}, "vit_base_patch16_siglip_224.webli",
   "google/siglip-base-patch16-224", None),
  ("siglip_l16", "siglip", "large", _AT256, "vit_large_patch16_siglip_256.webli",
   "google/siglip-large-patch16-256", _W256),
  ("siglip_so14", "siglip", "so400m", _P14, "vit_so400m_patch14_siglip_224.webli",
   "google/siglip-so400m-patch14-224", None),
  ("siglip_so16", "siglip", "so400m", _AT256, "vit_so400m_patch16_siglip_256.webli_i18n",
   "google/siglip-so400m-patch16-256-i18n", _W256),
  ("siglip2_b16", "siglip", "base", {}, "vit_base_patch16_siglip_224.v2_webli",
   "google/siglip2-base-patch16-224", None),
  ("siglip2_l16", "siglip", "large", _AT256, "vit_large_patch16_siglip_256.v2_webli",
   "google/siglip2-large-patch16-256", _W256),
  ("siglip2_so14", "siglip", "so400m", _P14, "vit_so400m_patch14_siglip_224.v2_webli",
   "google/siglip2-so400m-patch14-224", None),
  ("siglip2_so16", "siglip", "so400m", _AT256, "vit_so400m_patch16_siglip_256.v2_webli",
   "google/siglip2-so400m-patch16-256", _W256),
  ("clip_b32", "clip", "base", _P32, "vit_base_patch32_clip_224.openai",
   "openai/clip-vit-base-patch32", None),
  ("clip_b16", "clip", "base", {}, "vit_base_patch16_clip_224.openai",
   "openai/clip-vit-base-patch16", None),
  ("clip_l14", "clip", "large", _P14, "vit_large_patch14_clip_224.openai",
   "openai/clip-vit-large-patch14", None),
  ("openclip_b32", "openclip", "base", _P32, "vit_base_patch32_clip_224.laion2b",
   "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", None),
  ("openclip_b16", "openclip", "base", {}, "vit_base_patch16_clip_224.laion2b",
   "laion/CLIP-ViT-B-16-laion2B-s34B-b88K", None),
  ("openclip_l14", "openclip", "large", _P14, "vit_large_patch14_clip_224.laion2b",
   "laion/CLIP-ViT-L-14-laion2B-s32B-b82K", _whole(*_HALF)),
  ("unicom_b32", "unicom", "base", _P32 | {"flat_dim": 512}, "", "UNICOM's FP16-ViT-B-32.pt", None),
  ("unicom_b16", "unicom", "base", {}, "", "UNICOM's FP16-ViT-B-16.pt", None),
  ("unicom_l14", "unicom", "large", _P14, "", "UNICOM's FP16-ViT-L-14.pt", None),
)  # fmt: skip


def _register(
  name: str, family: str, size: str, own: dict[str, Any], timm: str, file: str,
  pixels: Preprocessing | None,
) -> partial[ViT]:  # fmt: skip
  """Registers one row of the table."""
  fields = _FAMILIES[family].fields | _SIZES[size] | own
  published = Published(
    file=f"timm's {timm}, {file}" if timm else file,
    name_of=_name_of,
    classifier=("head.weight", "head.bias"),
    preprocessing=pixels or _FAMILIES[family].pixels,
    ignore=_IGNORED,
    tidied=tidied,
    fits=partial(_fits, fields),
    hub=f"timm/{timm}" if timm else "",
  )
  return register(name, partial(ViT, **fields), published)


_MADE = {row[0]: _register(*row) for row in _TABLE}

ViTS16 = _MADE["vit_s16"]
"""ViT-S/16: DeiT's, and DINO's small one; 21,665,664 parameters."""

ViTB16 = _MADE["vit_b16"]
"""ViT-B/16: DeiT's, and DINO's base one; 85,798,656 parameters."""

DinoV2S14 = _MADE["dinov2_s14"]
"""DINOv2's ViT-S/14, trained at 518 pixels: 22,056,192 parameters (arXiv 2304.07193)."""
