import pytest
import torch

from mergegrid.merging.deltas import ExpertDeltas

SHAPES = {"embedding.weight": (16, 8), "layer.bias": (8,), "layer.weight": (8, 8)}


@pytest.fixture(scope="session")
def base():
    return checkpoint(0, 0.02)


@pytest.fixture(scope="session")
def experts(base):
    return {
        name: {
            key: tensor + delta
            for (key, tensor), delta in zip(
                base.items(), checkpoint(seed, 0.002).values(), strict=True
            )
        }
        for seed, name in enumerate(["math", "code", "chat"], start=1)
    }


@pytest.fixture(scope="session")
def math(base, experts):
    return ExpertDeltas("math", base, experts["math"])


def checkpoint(seed, scale):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in SHAPES.items()}
