"""How benchmarks are asked where the configuration does not say: the paper's prompts and limits.

Texts, lengths and stops are those of arXiv 2311.03099 and of the models it evaluates (WizardLM,
WizardMath, WizardCoder), which were trained on them.
"""

from dataclasses import dataclass

_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_STEPS = _ALPACA + "\n\n### Instruction:\n{instruction}\n\n### Response: Let's think step by step."
_PROGRAM = (
    _ALPACA + "\n\n\n### Instruction:\nCreate a Python script for this problem:\n{instruction}"
    "\n\n### Response:"
)
_CONVERSATION = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: {instruction} ASSISTANT:"
)
_PLAIN = _ALPACA + "\n\n### Instruction:\n{instruction}\n\n### Response:"
_NEXT_TURN = ("Instruction:", "Instruction", "Response:", "Response")


@dataclass(frozen=True)
class PromptDefaults:
    """Defaults for the questions of a kind of benchmark."""

    prompt: str
    """Text around each `{instruction}`, where there is no chat template."""
    max_tokens: int
    """Tokens after which an answer is cut."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer."""


PROMPT_DEFAULTS = {
    "gsm8k": PromptDefaults(_STEPS, 1024, _NEXT_TURN),
    "math": PromptDefaults(_STEPS, 2048, _NEXT_TURN),
    "humaneval": PromptDefaults(_PROGRAM, 2048),
    "mbpp": PromptDefaults(_PROGRAM, 2048),
    "alpaca_eval": PromptDefaults(_CONVERSATION, 2048),
    "instructions": PromptDefaults(_PLAIN, 256),
}
