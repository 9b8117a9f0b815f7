"""Writes a Llama of real shape with random weights, for measuring what does not depend on their values.

    python synthetic_llama.py FOLDER [--layers 16] [--hidden 1024] [--dtype float32]

Needs numpy and safetensors. The defaults make a file of 1.0 GB.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--dtype", default="float32")
    args = parser.parse_args()
    hidden, inner, vocab = args.hidden, args.hidden * 11 // 4, 32000
    rng = np.random.default_rng(0)
    tensor = lambda *shape: (rng.standard_normal(shape, dtype=np.float32) * 0.02).astype(args.dtype)
    ones = lambda: np.ones(hidden, dtype=args.dtype)
    tensors = {"model.embed_tokens.weight": tensor(vocab, hidden), "model.norm.weight": ones()}
    for i in range(args.layers):
        layer = f"model.layers.{i}."
        for name in "qkvo":
            tensors[f"{layer}self_attn.{name}_proj.weight"] = tensor(hidden, hidden)
        tensors[f"{layer}mlp.gate_proj.weight"] = tensor(inner, hidden)
        tensors[f"{layer}mlp.up_proj.weight"] = tensor(inner, hidden)
        tensors[f"{layer}mlp.down_proj.weight"] = tensor(hidden, inner)
        tensors[f"{layer}input_layernorm.weight"] = ones()
        tensors[f"{layer}post_attention_layernorm.weight"] = ones()
    args.folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": args.layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 64,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=2))
    print((args.folder / "model.safetensors").stat().st_size, "bytes")


main()
