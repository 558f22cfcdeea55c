"""Greedy answers of a model folder by vLLM, as JSON.

    python vllm_answers.py FOLDER TOKENS PROMPT...

Runs in any environment that has vLLM, and needs nothing else of this project.
"""

import json
import os
import sys

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def main(folder: str, tokens: str, *prompts: str) -> None:
    from vllm import LLM, SamplingParams

    # In float32: greedy text in bfloat16 depends on how prompts are batched.
    llm = LLM(
        model=folder,
        dtype="float32",
        enforce_eager=True,
        max_model_len=512,
        kv_cache_memory_bytes=1 << 30,
    )
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    sampling = SamplingParams(temperature=0, max_tokens=int(tokens))
    # vLLM's bar divides by the time that has passed, which may be nothing.
    outputs = llm.chat(chats, sampling, use_tqdm=False)
    sys.stdout.write(json.dumps([output.outputs[0].text for output in outputs]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
