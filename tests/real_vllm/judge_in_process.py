"""Run by the Python of the vLLM environment: judges the mild answers with vLLM in this process, prints JSON.

python judge_in_process.py MODEL_FOLDER NUMBER
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from smollm2 import CONTEXT, mild_answers

from harness.judges.vllm_in_process import VllmInProcessJudge

# vLLM's engine starts by importing this file again
if __name__ == "__main__":
    judge = VllmInProcessJudge(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=CONTEXT)
    verdicts = judge(mild_answers(int(sys.argv[2])))
    print(json.dumps([asdict(verdict) for verdict in verdicts]))
