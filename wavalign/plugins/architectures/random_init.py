"""Random weights."""

import torch
from torch import nn

INIT_STD = 0.02


def draw_weights(module: nn.Module) -> None:
    """Draw weights from the global generator as Llama and Qwen2 do: normal(0, 0.02), biases 0, norms 1."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, INIT_STD)
            else:
                parameter.fill_(0.0 if name.endswith(".bias") else 1.0)
