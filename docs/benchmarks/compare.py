"""Measures Fornax and its peers in turn, A B A B, and prints medians and ratios.

    compare.py llama FORNAX ROUNDS FILE.gguf...        prefill of 512 tokens and 64 new ones, against llama.cpp
    compare.py transformers FORNAX ROUNDS FOLDER       the same of a Hugging Face folder, against transformers in bf16
    compare.py sentences FORNAX ROUNDS FOLDER TEXTS    sentences a second, against sentence-transformers at its best
    compare.py start FORNAX ROUNDS FILE.gguf           from the start of the process to the first new token

FORNAX is the command's path. Needs llama-cpp-python, or torch with transformers or sentence-transformers. Both sides run
with 2 threads; each measurement is a process of its own after one run that does not count.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

THREADS = 2
PROMPT, NEW = 512, 64


def llama_cpp(path):
    """Tokens a second of llama.cpp: prefill and decode."""
    import ctypes

    import llama_cpp as llama
    from llama_cpp import llama_cpp as raw

    silent = raw.llama_log_callback(lambda *_: None)
    llama.llama_backend_init()
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 2 * PROMPT, PROMPT, PROMPT
    params.n_threads = params.n_threads_batch = THREADS
    context = llama.llama_init_from_model(model, params)
    vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))

    def feed(tokens):
        tokens = (raw.llama_token * len(tokens))(*tokens)
        assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(tokens))) == 0
        llama.llama_synchronize(context)

    def run():
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        start = time.perf_counter()
        feed([(i * 7 + 3) % vocabulary for i in range(PROMPT)])
        prefill = PROMPT / (time.perf_counter() - start)
        start = time.perf_counter()
        for i in range(NEW):
            feed([(i * 13 + 5) % vocabulary])
        return {"prefill": prefill, "decode": NEW / (time.perf_counter() - start)}

    run()
    return run()


def transformers(path):
    """Tokens a second of transformers in bf16: prefill and decode."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(THREADS)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16).eval()
    ids = (torch.arange(PROMPT) * 7 + 3).remainder(model.config.vocab_size)[None]

    def run():
        with torch.inference_mode():
            start = time.perf_counter()
            past = model(ids, use_cache=True, logits_to_keep=1).past_key_values
            prefill = PROMPT / (time.perf_counter() - start)
            start = time.perf_counter()
            for _ in range(NEW // 4):
                past = model(ids[:, :1], past_key_values=past, use_cache=True).past_key_values
            return {"prefill": prefill, "decode": NEW // 4 / (time.perf_counter() - start)}

    run()
    return run()


def sentences(path, texts):
    """Sentences a second of sentence-transformers, the best over dtypes and batch sizes."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    texts = [line for line in open(texts, encoding="utf-8").read().split("\n") if line.strip()]
    best = 0
    for dtype in (torch.float32, torch.bfloat16):
        model = SentenceTransformer(path, device="cpu", model_kwargs={"dtype": dtype})
        for batch in (8, 32, 64):
            model.encode(texts[:32], batch_size=batch)
            start = time.perf_counter()
            model.encode(texts, batch_size=batch, normalize_embeddings=True)
            best = max(best, len(texts) / (time.perf_counter() - start))
    return {"sentences": best}


def first_token(path):
    """Seconds from loading to llama.cpp's first new token, and the most memory held."""
    import ctypes

    import llama_cpp as llama
    from llama_cpp import llama_cpp as raw

    silent = raw.llama_log_callback(lambda *_: None)
    start = time.perf_counter()
    llama.llama_backend_init()
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = PROMPT, THREADS, THREADS
    context = llama.llama_init_from_model(model, params)
    tokens = (raw.llama_token * 2)(1, 500)
    assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, 2)) == 0
    llama.llama_synchronize(context)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def fornax_bench(fornax, *arguments):
    command = [fornax, "bench", *arguments, "--threads", str(THREADS), "--repeat", "1", "--json"]
    return json.loads(subprocess.check_output(command))


def fornax_decoder(fornax, path):
    found = fornax_bench(fornax, path, "--prompt-tokens", str(PROMPT), "--new-tokens", str(NEW))
    read = found["bytes_per_token"] * found["decode_tokens_per_s"] / 1e9
    return {
        "prefill": found["prefill_tokens_per_s"],
        "decode": found["decode_tokens_per_s"],
        "decode GB/s": read,
        "peak MB": found["peak_rss_bytes"] / 1e6,
    }


def fornax_start(fornax, path):
    command = [fornax, "generate", path, "--prompt", "w1", "--max-new-tokens", "1", "--threads", str(THREADS)]
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    assert status == 0
    return {"seconds": time.perf_counter() - start, "MB": usage.ru_maxrss / 1000}


def child(what, *arguments):
    """This script's measurement of a peer, in a process of its own."""
    command = [sys.executable, __file__, "--child", what, *arguments]
    return json.loads(subprocess.check_output(command, stderr=subprocess.DEVNULL).splitlines()[-1])


def compare(title, rounds, ours, theirs):
    sides = {"fornax": [], "peer": []}
    for turn in range(rounds):
        for side, measure in (("fornax", ours), ("peer", theirs)):
            sides[side].append(measure())
            print(f"\r{title}: {turn + 1}/{rounds} {side}   ", end="", file=sys.stderr)
    print(file=sys.stderr)
    for figure in sides["fornax"][0]:
        ours, theirs = ([run[figure] for run in sides[side] if figure in run] for side in ("fornax", "peer"))
        line = f"{title:32} {figure:12} {statistics.median(ours):9.2f}"
        if theirs:
            ratio = statistics.median(a / b for a, b in zip(ours, theirs))
            line += f"  peer {statistics.median(theirs):9.2f}  ratio {ratio:6.2f}"
        print(f"{line}  ({min(ours):.2f} to {max(ours):.2f})", flush=True)


def main():
    if sys.argv[1] == "--child":
        measure = {f.__name__: f for f in (llama_cpp, transformers, sentences, first_token)}[sys.argv[2]]
        print(json.dumps(measure(*sys.argv[3:])))
        return
    what, fornax, rounds, path = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    if what == "llama":
        for path in sys.argv[4:]:
            title = "/".join(path.split("/")[-2:])
            compare(title, rounds, lambda: fornax_decoder(fornax, path), lambda: child("llama_cpp", path))
    elif what == "transformers":
        compare("bf16", rounds, lambda: fornax_decoder(fornax, path), lambda: child("transformers", path))
    elif what == "sentences":
        texts = sys.argv[5]
        ours = lambda: {
            "sentences": fornax_bench(fornax, path, "--texts", texts, "--batch", "64", "--weights", "bf16")["texts_per_s"]
        }
        compare("sentences", rounds, ours, lambda: child("sentences", path, texts))
    elif what == "start":
        fornax_start(fornax, path)
        compare("start", rounds, lambda: fornax_start(fornax, path), lambda: child("first_token", path))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
