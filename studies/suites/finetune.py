"""Suites of ways to fine-tune."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from studies import tasks
from studies.suites.arms import Arm, Suite, with_recipes

__all__ = ["suites"]

# 1x1 convolutions, dense layers in all but name; of Lite0 they are 94 of 100 parameters.
_POINTWISE = r"(.*/)?(expand_conv|project_conv|head_conv)/kernel"
_FEATURES = {"encoder.cache_features": "runs/features"}
_WAYS: Mapping[str, Mapping[str, Any]] = {
  "plain": {},  # all of it at once, the encoder at a tenth of the rate
  "head on features": _FEATURES,
  "head on features, MLP": {**_FEATURES, "embedding.hidden": (512,)},
  "LoRA": {
    "encoder.lora.rank": 8, "encoder.lora.targets": _POINTWISE, "optimizer.encoder_factor": 1.0,
  },
  "averaged": {"train.ema_decay": 0.97},
}  # fmt: skip


def _ways(
  task: str, base: Callable[[], ConfigDict], steps: int, rates: Sequence[float]
) -> list[Arm]:
  """Ways to fine-tune for so many steps, with learning rates to choose from."""
  ways = dict(_WAYS)
  ways["staged"] = {"optimizer.unfreeze": (f"{steps // 4} steps: 3", f"{steps // 2} steps: all")}
  tried = [{"optimizer.learning_rate": rate} for rate in rates]
  recipe = with_recipes(base, "multisimilarity")
  return [
    Arm(task, "multi_similarity", way, recipe, [{**one, **own} for one in tried])
    for way, own in ways.items()
  ]


def suites() -> list[Suite]:
  """Ways to fine-tune EfficientNet-Lite from ImageNet's weights, beside the frozen encoder.

  A head on features sees each image in one view, without augmentation. Digits have no class to hold
  out, so nothing is tuned there.
  """
  larger = [
    _ways(f"digits, Lite{size}", tasks.with_encoder(tasks.digits_from_imagenet, name), 100, (3e-3,))
    for size, name in ((1, "efficientnet_lite1"), (2, "efficientnet_lite2"))
  ]
  grids = {
    "finetune": _ways("digits, Lite0", tasks.digits_from_imagenet, 100, (3e-3,)),
    "finetune_letters": _ways("letters, Lite0", tasks.imagenet_tuned, 200, (1e-3, 3e-3)),
    "finetune_larger": [arm for arms in larger for arm in arms],
  }
  about = "from ImageNet's weights: frozen, a head on features, LoRA, all, in stages, averaged"
  return [
    Suite(name, f"{about}; {arms[0].task}", arms, ("map@r", "recall@1"), costs=True)
    for name, arms in grids.items()
  ]
