# SPDX-License-Identifier: Apache-2.0
"""The real sglang engine as a process that takes one JSON command a line on stdin and answers on a pipe.

    python engine_main.py ANSWER_FD '{"model_path": ..., ...}'

Everything else that is printed, by the engine's processes too, goes to stdout and stderr: the log.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def main() -> None:
    answers = os.fdopen(int(sys.argv[1]), "w")

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    import sglang

    begun = time.monotonic()
    engine = sglang.Engine(**json.loads(sys.argv[2]))
    answer(ready_s=time.monotonic() - begun)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "flush":
            answer(flushed=bool(getattr(engine.flush_cache(), "success", True)))
        elif command["do"] == "generate":
            answer(**_generate(engine, command["input_ids"], command["new_tokens"]))
        else:
            break
    engine.shutdown()


def _generate(engine: Any, input_ids: list[int], new_tokens: int) -> dict[str, Any]:
    """One greedy generation, streamed so that the first token's time is known."""
    begun = time.monotonic()
    first_s = 0.0
    answered: dict[str, Any] = {}
    sampling = {"max_new_tokens": new_tokens, "temperature": 0, "ignore_eos": True}
    for chunk in engine.generate(input_ids=input_ids, sampling_params=sampling, stream=True):
        first_s = first_s or time.monotonic() - begun
        answered = chunk  # each holds all that came so far
    meta = answered["meta_info"]
    return {
        "output_ids": answered["output_ids"],
        "prompt_tokens": meta["prompt_tokens"],
        "cached_tokens": meta["cached_tokens"],
        "details": meta.get("cached_tokens_details") or {},
        "first_token_s": first_s,
        "elapsed_s": time.monotonic() - begun,
    }


if __name__ == "__main__":
    main()
