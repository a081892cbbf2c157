"""The engine's own process: vLLM behind a pipe of JSON messages. Run by :mod:`stepneg.sampling.vllm_engine`.

``{"do": "load", ...}`` is answered by one message, ``{"do": "generate", ...}`` by a message a finished request and
``{"done": true}``. An exception is answered by ``{"error": text}``; the process ends with its pipe or its parent.
"""

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import vllm
from transformers import AutoConfig, AutoModelForCausalLM
from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
from vllm.inputs import TokensPrompt
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind

from stepneg.policy_folder import stop_ids

PROBES, PROBE_LENGTH = 4, 24
SMALL_VOCABULARY = 10_000  # below which a count over the vocabulary is not worth its compilation, of 2 to 12 s
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 0.1, torch.float16: 0.05}  # mean |difference|, nats a token


class Server:
    """One vLLM at a time, rebuilt for each policy (about 2 s: the imports are paid once)."""

    def __init__(self) -> None:
        self.llm: vllm.LLM | None = None
        self.stop_ids: list[int] = []

    def load(self, policy: str, options: dict[str, Any]) -> float:
        """Build the engine and compare its log-probs of a probe with transformers'.

        Returns:
            The mean absolute difference, in nats a token.
        """
        for attempt in (1, 2):
            self.build(policy, options)
            assert self.llm is not None
            dtype = self.llm.llm_engine.model_config.dtype
            assert isinstance(dtype, torch.dtype)
            difference = self.difference(policy, dtype)
            if difference <= TOLERANCE[dtype]:
                return difference
            if attempt == 2:
                raise RuntimeError(f"{policy}: vLLM's log-probs differ from transformers' by {difference:.4f} a token")
        raise AssertionError

    def build(self, policy: str, options: dict[str, Any]) -> None:
        """A fresh engine; in-place reloading is silently wrong for the CPU backend's packed weights."""
        if self.llm is not None:
            self.llm = None
            cleanup_dist_env_and_memory()
        gc.freeze()  # vLLM collects several times in a start, each time through all that the imports hold
        cpu = current_platform.is_cpu()
        config = AutoConfig.from_pretrained(policy, trust_remote_code=False)
        dtype = options["dtype"]
        if dtype == "auto" and cpu:
            dtype = "float32"
        memory: dict[str, Any] = {"gpu_memory_utilization": options["gpu_memory_utilization"]}
        context = options["context"] or config.max_position_embeddings
        if cpu:
            # A chunked prompt rewinds its sample's random generator, which CPU generators cannot.
            memory = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, context)}
            memory["kv_cache_memory_bytes"] = int(options["kv_cache_gib"] * 2**30)
            torch.compiler.set_stance("force_eager" if config.vocab_size < SMALL_VOCABULARY else "default")
        self.llm = vllm.LLM(
            model=policy,
            dtype=dtype,
            max_model_len=context,
            tensor_parallel_size=options["tensor_parallel_size"],
            max_num_seqs=options["max_num_seqs"],
            enforce_eager=cpu,
            enable_prefix_caching=True,
            skip_tokenizer_init=True,
            disable_log_stats=True,
            generation_config="vllm",
            load_format="safetensors",
            seed=0,
            **memory,
        )
        self.stop_ids = stop_ids(Path(policy))

    def difference(self, policy: str, dtype: torch.dtype) -> float:
        """Mean absolute difference between the engine's and transformers' log-probs of the probe."""
        model = AutoModelForCausalLM.from_pretrained(
            policy, dtype=dtype, use_safetensors=True, trust_remote_code=False
        ).eval()
        generator = torch.Generator().manual_seed(0)
        probe = torch.randint(0, model.config.vocab_size, (PROBES, PROBE_LENGTH), generator=generator)
        with torch.no_grad():
            logits = model(probe).logits.float()
        expected = logits[:, :-1].log_softmax(-1).gather(-1, probe[:, 1:, None])[..., 0]
        assert self.llm is not None
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=row) for row in probe.tolist()],
            vllm.SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False),
            use_tqdm=False,
        )
        self.llm.reset_prefix_cache()
        found = [
            [places[token].logprob for places, token in zip(o.prompt_logprobs[1:], row[1:], strict=True)]  # type: ignore[index]
            for o, row in zip(outputs, probe.tolist(), strict=True)
        ]
        return float((torch.tensor(found) - expected).abs().mean())

    def generate(self, pipe: Connection, requests: list[list[Any]], decoding: dict[str, Any]) -> None:
        """Send each request's completions as it finishes.

        The engine holds what it can decode together and as much again: it never lacks work, and a queue of any length
        takes neither its memory nor the time before the first step.
        """
        assert self.llm is not None
        engine = self.llm.llm_engine
        most = 2 * engine.vllm_config.scheduler_config.max_num_seqs
        rest = iter(enumerate(requests))
        while True:
            while engine.get_num_unfinished_requests() < most and (item := next(rest, None)) is not None:
                index, (prompt_ids, n, seed, start) = item
                params = sampling_params(n, seed + start, decoding, self.stop_ids)
                engine.add_request(str(index), TokensPrompt(prompt_token_ids=prompt_ids), params)
            if not engine.has_unfinished_requests():
                break
            for output in engine.step():
                if not output.finished:
                    continue
                completions = [
                    [list(c.token_ids), c.cumulative_logprob, c.finish_reason]
                    for c in sorted(output.outputs, key=lambda c: c.index)  # type: ignore[arg-type]
                ]
                send(pipe, {"index": int(output.request_id), "completions": completions})
        send(pipe, {"done": True})


def sampling_params(n: int, seed: int, decoding: dict[str, Any], stop_ids: list[int]) -> vllm.SamplingParams:
    """``n`` samples, of which vLLM draws the i-th with ``seed + i``."""
    return vllm.SamplingParams(
        n=n,
        temperature=decoding["temperature"],
        top_p=decoding["top_p"],
        max_tokens=decoding["max_tokens"],
        seed=seed,
        stop_token_ids=stop_ids,
        logprobs=0,
        flat_logprobs=True,  # no object a token
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def send(pipe: Connection, message: dict[str, Any]) -> None:
    """Send one message."""
    pipe.send_bytes(json.dumps(message).encode())


def serve(pipe: Connection) -> None:
    """Answer messages until the pipe closes."""
    if current_platform.is_cpu():
        # Where there is no compiler, what vLLM has compiled runs as it is: here, and in the ranks of this process.
        torch._dynamo.config.suppress_errors = True
        os.environ["TORCHDYNAMO_SUPPRESS_ERRORS"] = "1"
    server = Server()
    while True:
        try:
            message = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            if message["do"] == "load":
                send(pipe, {"difference": server.load(message["policy"], message["options"])})
            else:
                server.generate(pipe, message["requests"], message["decoding"])
        except Exception as error:
            traceback.print_exc()
            send(pipe, {"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no engine outlives its parent
    serve(Connection(int(sys.argv[1])))
