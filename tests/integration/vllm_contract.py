"""What `vllm_compat` relies on in vLLM, checked without a model.

    python vllm_contract.py

Prints a JSON object in the last line: for each thing, whether vLLM has it. Runs in any environment
that has vLLM and what mergegrid imports.
"""

import inspect
import json
import sys
from dataclasses import fields
from importlib import import_module

from mergegrid.study.generation import vllm_compat
from mergegrid.study.generation.vllm_environment import import_vllm


def contract() -> dict[str, bool]:
    """Check every attribute, parameter and message that `vllm_compat` uses."""
    with vllm_compat.hidden_module():
        llm = import_vllm("vllm").LLM
        engine = import_vllm("vllm.v1.engine.llm_engine").LLMEngine
        client = import_vllm("vllm.v1.engine.core_client").EngineCoreClient
        arguments = import_vllm("vllm.engine.arg_utils").EngineArgs
        config = import_vllm("vllm.config").ModelConfig
        runner = import_vllm("vllm.v1.worker.gpu_model_runner").GPUModelRunner
        worker = import_vllm("vllm.v1.worker.gpu_worker").Worker
        reloading = import_vllm(vllm_compat.RELOADING)
        layers = import_vllm("vllm.model_executor.layers.vocab_parallel_embedding")
    output = import_vllm("vllm").RequestOutput
    sampling = import_vllm("vllm").SamplingParams
    path, _, name = vllm_compat.WORKER.rpartition(".")
    return {
        "LLM.enqueue": parameters(llm.enqueue) >= {"prompts", "sampling_params", "use_tqdm"},
        "LLM.collective_rpc": parameters(llm.collective_rpc) >= {"method", "args"},
        "LLM.reset_prefix_cache": callable(llm.reset_prefix_cache),
        "LLMEngine.step": callable(engine.step) and callable(engine.has_unfinished_requests),
        "EngineCoreClient.shutdown": callable(client.shutdown),
        # These values limit nothing.
        "SamplingParams.top_k, min_p": sampling(top_k=0, min_p=0.0) == sampling(),
        "RequestOutput": parameters(output) >= {"request_id", "outputs", "finished"},
        "EngineArgs.worker_extension_cls": "worker_extension_cls" in parameters(arguments),
        "ModelConfig.compute_hash": list(parameters(config.compute_hash)) == ["self"],
        "GPUModelRunner.reload_weights": parameters(runner.reload_weights)
        >= {"weights_iterator", "is_checkpoint_format"},
        "Worker.reload_weights": callable(worker.reload_weights),
        "the warning about a layer that keeps its weights": f'"%s: {vllm_compat.NOT_LOADED}", layer'
        in inspect.getsource(reloading),
        "the logger of that warning": reloading.logger.name == vllm_compat.RELOADING,
        "ParallelLMHead": issubclass(layers.ParallelLMHead, layers.VocabParallelEmbedding),
        "shard_indices": {"org_vocab_start_index", "org_vocab_end_index"}
        <= {field.name for field in fields(layers.VocabParallelEmbeddingShardIndices)},
        "quant_method": "quant_method" in inspect.getsource(layers.VocabParallelEmbedding),
        "MergeWorker": callable(getattr(import_module(path), name).load_variant),
    }


def parameters(function: object) -> set[str]:
    return set(inspect.signature(function).parameters)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(contract()) + "\n")
