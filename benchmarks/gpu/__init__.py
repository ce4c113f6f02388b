"""What Hermes does on a GPU, in stages of at most three minutes each: `python -m benchmarks.gpu`.

Each stage writes `gpu-<stage>.json` after every measurement, and a second call goes on where the first one
stopped: what was measured on the same card, code and versions is not measured again. A stage runs in a
process of its own, so a card that one stage has upset serves the next.

    python -m benchmarks.gpu --stage images       # one stage
    python -m benchmarks.gpu --dry --to DIR       # smallest shapes, on a CPU where there is no GPU
    python -m benchmarks.gpu --table              # the table of the JSON files alone

torch, triton, transformers, numpy and safetensors must be there, and msgspec (one small wheel). What else is
missing costs its own rows only, which say so: `deepspeed` with hjson, pydantic, pydantic-core,
annotated-types and typing-inspection for the ZeRO-3 step; vllm and what it needs for the stage `engine`;
liger-kernel and cut-cross-entropy for their rows of `logps`. Recorded arrays are named with `--golden`.
"""
