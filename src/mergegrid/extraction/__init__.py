"""LoRA adapters extracted from fine-tuned models."""
