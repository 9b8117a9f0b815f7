"""Whole models for llama_cpp_peer.py: GGUF files of the made-up models that Fornax's runner wrote, and llama.cpp's own
prefill and decoding of them."""

import ctypes
import json
import os

import llama_cpp as L
import numpy as np
import peer

# What a file of each weight type is called by llama.cpp's quantizer; f32 is what the others are made from.
FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k": 15, "q6_k": 18, "bf16": 32}
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}

L.llama_backend_init()


def tensors(folder):
    """The tensors of a safetensors file in bf16, as f32, one after the other."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        for name, about in header.items():
            if name == "__metadata__":
                continue
            begin, end = about["data_offsets"]
            file.seek(start + begin)
            words = np.frombuffer(file.read(end - begin), dtype=np.uint16).astype(np.uint32)
            yield name, (words << 16).view(np.float32).reshape(about["shape"])


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def write_f32(folder, path):
    try:
        import gguf
    except ImportError as error:
        raise peer.Unsupported(f"whole models need the package gguf ({error}): pip install gguf")
    with open(os.path.join(folder, "config.json")) as file:
        config = json.load(file)
    heads = config["num_attention_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(0)
    # A vocabulary of the right size; nobody reads it.
    count = config["vocab_size"]
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [f"\u2581w{index}" for index in range(count - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.encode() for piece in pieces])
    writer.add_token_scores([-float(index) for index in range(count)])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (count - 259))
    for name, values in tensors(folder):
        # The order of a head's rows differs between the formats, but made-up weights have none.
        writer.add_tensor(gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_file(name, weights):
    """The model as a GGUF file with weights of this type, made when it is first asked for."""
    folder = peer.model_folder(name)
    # Beside the folder, in which only what Hugging Face's layout has is looked for.
    path = f"{folder}-{weights}.gguf"
    if os.path.exists(path):
        return path
    part = f"{path}.part"
    if weights == "f32":
        write_f32(folder, part)
    elif weights in FILE_TYPES:
        source = gguf_file(name, "f32")
        parameters = L.llama_model_quantize_default_params()
        parameters.ftype, parameters.nthread = FILE_TYPES[weights], peer.threads()
        if L.llama_model_quantize(source.encode(), part.encode(), ctypes.byref(parameters)) != 0:
            raise RuntimeError(f"llama.cpp could not make {weights} of {source}")
    else:
        raise peer.Unsupported(f"no {weights} weights in this runner")
    os.replace(part, path)
    return path


class Model:
    """A loaded model with a context for `sequences` sequences of up to `length` tokens."""

    def __init__(self, name, weights, sequences, length):
        path = gguf_file(name.split()[0], weights)
        self.model = L.llama_model_load_from_file(path.encode(), L.llama_model_default_params())
        parameters = L.llama_context_default_params()
        parameters.n_ctx = sequences * (length + 255) // 256 * 256 + 256 * sequences
        parameters.n_batch = parameters.n_ubatch = max(length, 512)
        parameters.n_seq_max = sequences
        parameters.n_threads = parameters.n_threads_batch = peer.threads()
        self.context = L.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError("llama.cpp made no context")
        self.memory = L.llama_get_memory(self.context)
        self.vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(self.model))
        self.batch = L.llama_batch_init(max(length, sequences), 0, 1)

    def run(self, entries):
        """Runs tokens, each `(sequence, position, whether its scores are wanted)`."""
        batch = self.batch
        batch.n_tokens = len(entries)
        for at, (sequence, position, wanted) in enumerate(entries):
            batch.token[at] = (at * 7 + 3) % self.vocabulary
            batch.pos[at], batch.n_seq_id[at], batch.logits[at] = position, 1, wanted
            batch.seq_id[at][0] = sequence
        if (status := L.llama_decode(self.context, batch)) != 0:
            raise RuntimeError(f"llama_decode: {status}")
        L.llama_synchronize(self.context)

    def __del__(self):
        if getattr(self, "batch", None):
            L.llama_batch_free(self.batch)
        if getattr(self, "context", None):
            L.llama_free(self.context)
        if getattr(self, "model", None):
            L.llama_model_free(self.model)


def prefill(name, shape):
    tokens = shape["tokens"]
    model = Model(name, shape["weights"], 1, tokens)
    entries = [(0, position, position + 1 == tokens) for position in range(tokens)]

    def call():
        L.llama_memory_clear(model.memory, True)
        model.run(entries)

    return call


def decode(name, shape):
    batch, context = shape["batch"], shape["context"]
    model = Model(name, shape["weights"], batch, context)
    for sequence in range(batch):
        model.run([(sequence, position, False) for position in range(context - 1)])
    entries = [(sequence, context - 1, True) for sequence in range(batch)]

    def call():
        model.run(entries)
        for sequence in range(batch):
            L.llama_memory_seq_rm(model.memory, sequence, context - 1, -1)

    return call


MODELS = {"prefill": prefill, "decode": decode}
