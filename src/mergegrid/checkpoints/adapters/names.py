"""Tensor names of a base for the module paths of an adapter.

The class that was trained determines the paths: `model.layers.0...` for a causal model,
`layers.0...` for its body alone, `model.language_model.layers.0...` as part of a larger model. All
paths of an adapter must therefore differ from the base's names by the same prefix.
"""

from collections.abc import Collection, Iterable

from mergegrid.errors import CheckpointError

_RENAMED = (".mlp.", ".block_sparse_moe.")
"""A module of Mixtral that transformers 5 renamed, and its name in files."""
_OTHER_TOWERS = ("vision", "visual", "image", "audio", "speech")


def resolve(paths: Iterable[str], base: Collection[str], where: str) -> dict[str, str]:
    """The parts of tensor names that stand for module paths, as far as the base has them.

    Args:
        paths: paths of modules in the adapter.
        base: tensor names of the base.
        where: the adapter, for messages.

    Raises:
        CheckpointError: a path fits several tensors, or the paths differ from the names of the base
            in more than one way.
    """
    modules = {module for name in base for module in _modules(name)}
    ends: dict[str, set[str]] = {}
    for module in modules:
        for rest in _rests(module):
            ends.setdefault(rest, set()).add(module)
    resolved: dict[str, str] = {}
    prefixes: dict[tuple[str, str], str] = {}
    for trained in paths:
        path = next((one for one in _spellings(trained) if _known(one, ends)), "")
        if not path:
            continue
        if path in modules:
            resolved[trained] = path
            continue
        rest = next(rest for rest in _rests(path) if rest in ends)
        fitting = sorted(ends[rest])
        if len(fitting) > 1:
            raise CheckpointError(
                f"{where}: {path} may be {fitting[0]} or {fitting[1]} of the base; merge the "
                "adapter into its base with PEFT (merge_and_unload) and use the resulting folder"
            )
        prefix = path.removesuffix(rest), fitting[0].removesuffix(rest)
        if any(word in prefix[0] and word not in prefix[1] for word in _OTHER_TOWERS):
            continue
        prefixes.setdefault(prefix, path)
        resolved[trained] = fitting[0]
    if len(prefixes) > 1:
        first, second = list(prefixes.values())[:2]
        raise CheckpointError(
            f"{where}: {first} and {second} differ from the names of the base by different "
            "prefixes; it was not trained on this base: specify the right one"
        )
    return resolved


def _spellings(path: str) -> list[str]:
    return [path, path.replace(*_RENAMED)]


def _known(path: str, ends: Collection[str]) -> bool:
    return any(rest in ends for rest in _rests(path))


def _modules(name: str) -> list[str]:
    """The path of a tensor's module, and of the modules around it."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


def _rests(path: str) -> list[str]:
    """A path without its first names, longest first, with all of its numbers: a.b.0.c, b.0.c, 0.c.

    Without the number of a layer, a path would fit any layer.
    """
    parts = path.split(".")
    first_number = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return [".".join(parts[start:]) for start in range(first_number + 1)]
