"""torch (and transformers, for whole models) on the processor, beside Fornax: see peer.py.

    python torch_peer.py [THREADS]

Every operation is what a user of torch would call: the fused one where torch has it.
"""

import peer

try:
    import torch
    import torch.nn.functional as F
except Exception as error:
    peer.missing(error, "install it with `pip install torch` and give its Python with --python")

torch.set_num_threads(peer.threads())
torch.manual_seed(0)
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def dtype(shape):
    name = shape.get("weights", "f32")
    if name not in DTYPES:
        raise peer.Unsupported(f"torch has no {name} weights for the processor")
    return DTYPES[name]


def linear(shape, copies):
    kind = dtype(shape)
    x = torch.randn(shape["rows"], shape["in_features"]).to(kind)
    first = torch.randn(shape["out_features"], shape["in_features"]).to(kind)
    weight = peer.ring([first] + [first.clone() for _ in range(copies - 1)])
    return lambda: F.linear(x, weight())


def attention(shape, copies):
    batch, heads, kv_heads, size = shape["batch"], shape["heads"], shape["kv_heads"], shape["head_dim"]
    queries, keys = shape["queries"], shape["keys"]
    if shape.get("window"):
        raise peer.Unsupported("no window in scaled_dot_product_attention without a mask")
    kind = DTYPES.get(shape.get("cache", "f32"))
    if kind is None:
        raise peer.Unsupported(f"no {shape['cache']} keys and values")
    query = torch.randn(batch, heads, queries, size, dtype=kind)
    first = torch.randn(batch, kv_heads, keys, size, dtype=kind)
    key = peer.ring([first] + [first.clone() for _ in range(2 * copies - 1)])
    # A single query sees all keys, so it needs no mask.
    causal = shape["causal"] and queries > 1
    return lambda: F.scaled_dot_product_attention(query, key(), key(), is_causal=causal, enable_gqa=heads != kv_heads)


def rms_norm(shape, _):
    x, weight = torch.randn(shape["rows"], shape["features"]), torch.randn(shape["features"])
    return lambda: F.rms_norm(x, (x.shape[1],), weight, 1e-6)


def layer_norm(shape, _):
    x, weight = torch.randn(shape["rows"], shape["features"]), torch.randn(shape["features"])
    return lambda: F.layer_norm(x, (x.shape[1],), weight, None, 1e-5)


def rope(shape, _):
    size = shape["rotary_dim"]
    if size != shape["head_dim"]:
        raise peer.Unsupported("heads that turn in part")
    x = torch.randn(shape["batch"], shape["heads"], shape["seq"], size)
    cos, sin = torch.randn(shape["seq"], size), torch.randn(shape["seq"], size)

    def rotate_half(x):
        return torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1)

    return lambda: x * cos + rotate_half(x) * sin  # as transformers does


def gated(shape, _):
    gate, up = torch.randn(shape["rows"], shape["features"]), torch.randn(shape["rows"], shape["features"])
    return lambda: F.silu(gate) * up


def transformers_model(name, shape, kind):
    """The made-up model that Fornax's runner wrote, or one with weights of its own where it wrote none."""
    try:
        import transformers
    except ImportError as error:
        raise peer.Unsupported(f"whole models need transformers ({error}): pip install transformers")
    transformers.utils.logging.disable_progress_bar()
    folder = peer.model_folder(name.split()[0])
    return getattr(transformers, kind).from_pretrained(folder, dtype=dtype(shape), local_files_only=True).eval()


def ids(batch, tokens, vocabulary):
    return (torch.arange(batch * tokens) * 7 + 3).remainder(vocabulary).reshape(batch, tokens)


def prefill(name, shape, _):
    model = transformers_model(name, shape, "LlamaForCausalLM")
    tokens = ids(1, shape["tokens"], model.config.vocab_size)
    return lambda: model(tokens, use_cache=True, logits_to_keep=1).logits.argmax(-1).tolist()


def decode(name, shape, _):
    model = transformers_model(name, shape, "LlamaForCausalLM")
    batch, context = shape["batch"], shape["context"]
    past = model(ids(batch, context - 1, model.config.vocab_size), use_cache=True, logits_to_keep=1).past_key_values
    token = ids(batch, 1, model.config.vocab_size)

    def call():
        model(token, past_key_values=past, use_cache=True).logits.argmax(-1).tolist()
        past.crop(-1)

    return call


def load(name, shape, _):
    return lambda: transformers_model(name, shape, "LlamaForCausalLM")


def embed(name, shape, _):
    model = transformers_model(name, shape, "BertModel")
    tokens = ids(shape["batch"], shape["tokens"], model.config.vocab_size)
    return lambda: model(tokens).last_hidden_state.mean(1).argmax(-1).tolist()


OPERATIONS = {
    "linear": linear,
    "packed_linear": linear,
    "attention": attention,
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "rope": rope,
    "gated": gated,
}
MODELS = {"prefill": prefill, "decode": decode, "load": load, "embed": embed}


def prepare(op, name, shape, copies):
    if op in MODELS:
        call = MODELS[op](name, shape, copies)
    elif op in OPERATIONS:
        call = OPERATIONS[op](shape, copies)
    else:
        raise peer.Unsupported(f"no runner for {op}")
    return call


# Gradients are not recorded, in preparing and in calls alike.
with torch.inference_mode():
    peer.serve("torch", torch.__version__, prepare)
