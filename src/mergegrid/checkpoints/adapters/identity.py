"""What identifies an adapter as an input of a merge, beside its base."""

from mergegrid.checkpoints.adapters.adapter import Adapter
from mergegrid.checkpoints.digests import checkpoint_digest, digest_tensors
from mergegrid.checkpoints.publish import check_tensors
from mergegrid.hashing import file_digest

READER_VERSION = 1
"""Raised by hand when the deltas that are read from the same files change."""


def adapter_digests(adapter: Adapter) -> dict[str, str]:
    """Digests of the files of an adapter, and the version of its reader; reads the tensors.

    Raises:
        DamagedError: the adapter was published by mergegrid and differs from its manifest.
    """
    tensors = digest_tensors(adapter.file)
    check_tensors(adapter.folder, tensors)
    return {
        "adapter": checkpoint_digest(tensors),
        "adapter_config": file_digest(adapter.config.path),
        "adapter_reader": str(READER_VERSION),
    }
