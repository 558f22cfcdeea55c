"""Model statistics of experts: diagonal Fisher information and Gram matrices."""
