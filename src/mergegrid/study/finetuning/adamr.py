"""AdamR: AdamW whose parameters also decay towards the base (arXiv 2410.09344).

The smaller the deltas of an expert, the more of them can be dropped. Before each step of Adam,
every parameter that the base has moves towards its value in the base, θ₀:

    θ <- θ - min(1, lr λ / s) (θ - θ₀)

s is the root of the mean, over all trained parameters, of Adam's second moment with its correction
of bias: one number per step. So λ has the same effect whatever the scale of the loss. Beside the
formula of the paper there is the limit of 1, without which vanishing gradients, and so a vanishing
s, would throw parameters beyond their base.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from mergegrid.study.schema.finetuning import DecoderFinetune, Finetune


class AdamR(torch.optim.AdamW):
    """AdamW with a decay towards the base.

    Args:
        params: parameters, or groups of them.
        base: values of parameters in the base; parameters without one do not decay towards it.
        towards_base: strength λ of the decay.
        settings: arguments of AdamW.
    """

    def __init__(
        self, params: Any, *, base: Mapping[Parameter, Tensor], towards_base: float, **settings: Any
    ) -> None:
        super().__init__(params, **settings)
        self._base = {parameter: value.to(parameter.device) for parameter, value in base.items()}
        self._strength = towards_base

    def step(self, closure: Any = None) -> Any:
        """Decay towards the base, then do a step of AdamW."""
        scale = self._root_mean_second_moment() or 1.0
        with torch.no_grad():
            for group in self.param_groups:
                share = min(1.0, group["lr"] * self._strength / scale)
                for parameter in group["params"]:
                    if parameter.grad is not None and parameter in self._base:
                        parameter.sub_(parameter - self._base[parameter], alpha=share)
        return super().step(closure)

    def _root_mean_second_moment(self) -> float:
        """s of the step that follows, whose gradients are there."""
        total, count = torch.zeros((), dtype=torch.float64), 0
        for group in self.param_groups:
            _, beta = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state.get(parameter)
                moment = (1 - beta) * parameter.grad.square().sum(dtype=torch.float64)
                if state:
                    moment += beta * state["exp_avg_sq"].sum(dtype=torch.float64)
                steps = 1 + (int(state["step"]) if state else 0)
                total = total.to(moment.device) + moment / (1 - beta**steps)
                count += parameter.numel()
        return math.sqrt(float(total) / max(count, 1))


def adamr_settings(
    settings: Finetune | DecoderFinetune, parameters: Iterable[Parameter]
) -> dict[str, Any]:
    """Arguments of `AdamR` for parameters that have the values of the base now."""
    base = {parameter: parameter.detach().clone() for parameter in parameters}
    return {"lr": settings.learning_rate, "base": base, "towards_base": settings.towards_base}


def trainer_optimizer(
    settings: Finetune | DecoderFinetune, parameters: Iterable[Parameter]
) -> dict[str, Any]:
    """Arguments of a Trainer for `AdamR`; none, for its own optimizer, without `towards_base`."""
    if not settings.towards_base:
        return {}
    return {"optimizer_cls_and_kwargs": (AdamR, adamr_settings(settings, parameters))}
