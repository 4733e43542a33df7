# SPDX-License-Identifier: Apache-2.0
"""``python -m vllm_rig.generate MODEL CONNECTOR``: a vLLM of its own answers one prompt; a line is JSON.

MODEL: a folder with a checkpoint. CONNECTOR: vLLM's ``kv_transfer_config``, or ``{}``. What is said: the tokens, their
log probabilities, and how many tokens of the prompt vLLM did not compute because the connector had them. It ends when
its stdin does.
"""

from __future__ import annotations

import json
import sys
from typing import Any

PROMPT_TOKENS = 300
BLOCK_TOKENS = 32  # vLLM's attention on a CPU wants multiples of it
NEW_TOKENS = 8
SAID = "ANSWER "  # vLLM logs on stdout as well


def main(model: str, connector: str) -> None:
    from vllm import LLM, SamplingParams

    settings: dict[str, Any] = {}
    if described := json.loads(connector):
        settings["kv_transfer_config"] = described
    engine = LLM(
        model=model,
        dtype="bfloat16",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=2,
        enable_prefix_caching=True,
        block_size=BLOCK_TOKENS,
        seed=0,
        **settings,
    )
    prompt = [(7 * position + position * position) % 1000 + 3 for position in range(PROMPT_TOKENS)]
    sampling = SamplingParams(max_tokens=NEW_TOKENS, logprobs=1, temperature=0, ignore_eos=True, detokenize=False)
    answer = engine.generate([{"prompt_token_ids": prompt}], sampling)[0]
    output = answer.outputs[0]
    said = {
        "tokens": list(output.token_ids),
        "logprobs": [step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True)],
        "cached": answer.num_cached_tokens,
    }
    print(SAID + json.dumps(said), flush=True)
    sys.stdin.read()  # what is being stored meanwhile needs this process


if __name__ == "__main__":
    main(*sys.argv[1:])
