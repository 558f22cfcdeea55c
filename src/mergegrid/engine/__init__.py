"""The merge engine: checkpoints in, merged chunks out, in bounded memory."""
