"""LoRA adapters of PEFT, read without PEFT: what they change of the tensors of a base."""
