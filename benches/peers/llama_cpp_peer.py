"""llama.cpp's operations beside Fornax, through the ggml libraries that llama-cpp-python brings: see peer.py.

    python llama_cpp_peer.py [THREADS]

A case is a graph of one operation (or the few that make it), allocated and computed by ggml's CPU backend on a thread
pool that stays, as llama.cpp computes its own graphs; weights are repacked for the processor where llama.cpp repacks.
The arrays of llama.cpp are named by their innermost dimension first.
"""

import ctypes
import glob
import os
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_uint8, c_void_p

import peer

INSTALL = "install it with `pip install llama-cpp-python` and give its Python with --python"
try:
    import llama_cpp
    import numpy as np
except Exception as error:
    peer.missing(error, INSTALL)


def library(name):
    """One of the ggml libraries, wherever this version of llama-cpp-python keeps them."""
    folder = os.path.join(os.path.dirname(llama_cpp.__file__), "lib")
    found = glob.glob(os.path.join(folder, f"*{name}.so")) + glob.glob(os.path.join(folder, f"*{name}.dylib"))
    if not found:
        peer.missing(f"no lib{name} in {folder}", INSTALL)
    return ctypes.CDLL(found[0], mode=ctypes.RTLD_GLOBAL)


BASE, CPU = library("ggml-base"), library("ggml-cpu")

# The numbers of ggml's types, which files hold and so never change.
TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "q4_k": 12, "q6_k": 14, "bf16": 30}
NEOX = 2  # the rotary embedding that turns the two halves of a head
CPU_DEVICE = 0


class InitParams(Structure):
    _fields_ = [("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool)]


def function(lib, name, result, *arguments):
    found = getattr(lib, name)
    found.restype, found.argtypes = result, list(arguments)
    return found


P = c_void_p
ggml_init = function(BASE, "ggml_init", P, InitParams)
ggml_free = function(BASE, "ggml_free", None, P)
new_1d = function(BASE, "ggml_new_tensor_1d", P, P, c_int, c_int64)
new_2d = function(BASE, "ggml_new_tensor_2d", P, P, c_int, c_int64, c_int64)
new_4d = function(BASE, "ggml_new_tensor_4d", P, P, c_int, c_int64, c_int64, c_int64, c_int64)
nbytes = function(BASE, "ggml_nbytes", c_size_t, P)
row_size = function(BASE, "ggml_row_size", c_size_t, c_int, c_int64)
quantize = function(BASE, "ggml_quantize_chunk", c_size_t, c_int, P, P, c_int64, c_int64, c_int64, P)
mul_mat = function(BASE, "ggml_mul_mat", P, P, P, P)
mul = function(BASE, "ggml_mul", P, P, P, P)
rms_norm = function(BASE, "ggml_rms_norm", P, P, P, c_float)
norm = function(BASE, "ggml_norm", P, P, P, c_float)
swiglu = function(BASE, "ggml_swiglu_split", P, P, P, P)
rope_ext = function(
    BASE, "ggml_rope_ext", P, P, P, P, P, c_int, c_int, c_int, *[c_float] * 6
)
flash_attn = function(BASE, "ggml_flash_attn_ext", P, P, P, P, P, P, c_float, c_float, c_float)
new_graph = function(BASE, "ggml_new_graph_custom", P, P, c_size_t, c_bool)
expand = function(BASE, "ggml_build_forward_expand", None, P, P)
alloc_in = function(BASE, "ggml_backend_alloc_ctx_tensors_from_buft", P, P, P)
buffer_free = function(BASE, "ggml_backend_buffer_free", None, P)
tensor_set = function(BASE, "ggml_backend_tensor_set", None, P, P, c_size_t, c_size_t)
default_buffers = function(BASE, "ggml_backend_get_default_buffer_type", P, P)
gallocr_new = function(BASE, "ggml_gallocr_new", P, P)
gallocr_free = function(BASE, "ggml_gallocr_free", None, P)
gallocr_alloc = function(BASE, "ggml_gallocr_alloc_graph", c_bool, P, P)
compute = function(BASE, "ggml_backend_graph_compute", c_int, P, P)
proc_address = function(BASE, "ggml_backend_reg_get_proc_address", P, P, c_char_p)
reg_device = function(BASE, "ggml_backend_reg_dev_get", P, P, c_size_t)
supports_op = function(BASE, "ggml_backend_dev_supports_op", c_bool, P, P)
cpu_init = function(CPU, "ggml_backend_cpu_init", P)
cpu_reg = function(CPU, "ggml_backend_cpu_reg", P)
set_threads = function(CPU, "ggml_backend_cpu_set_n_threads", None, P, c_int)
set_threadpool = function(CPU, "ggml_backend_cpu_set_threadpool", None, P, P)


class ThreadpoolParams(Structure):
    _fields_ = [
        ("cpumask", c_bool * 512),
        ("n_threads", c_int),
        ("prio", c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", c_bool),
        ("paused", c_bool),
    ]


threadpool_init = function(BASE, "ggml_threadpool_params_init", None, POINTER(ThreadpoolParams), c_int)
threadpool_new = function(CPU, "ggml_threadpool_new", P, POINTER(ThreadpoolParams))

BACKEND = cpu_init()
set_threads(BACKEND, peer.threads())
POOL = ThreadpoolParams()
threadpool_init(byref(POOL), peer.threads())
set_threadpool(BACKEND, threadpool_new(byref(POOL)))
DEVICE = reg_device(cpu_reg(), CPU_DEVICE)
RANDOM = np.random.default_rng(0)


def repacking_buffers():
    """The kinds of memory in which weights lie as this processor likes them best; llama.cpp tries them in order."""
    address = proc_address(cpu_reg(), b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return []
    listed = ctypes.CFUNCTYPE(POINTER(P), P)(address)(DEVICE)
    found = []
    while listed and listed[len(found)]:
        found.append(listed[len(found)])
    return found


REPACKING = repacking_buffers()


class Case:
    """Tensors, a graph over them, and the memory of both."""

    def __init__(self, tensors=64, nodes=16):
        size = 512 * (tensors + 4 * nodes) + 65536
        self.context = ggml_init(InitParams(size, None, True))
        self.weights = ggml_init(InitParams(size, None, True))
        self.graphs, self.buffers, self.values = [], [], []

    def input(self, *dims, kind="f32", values=None):
        dims = list(dims) + [1] * (4 - len(dims))
        tensor = new_4d(self.context, TYPES[kind], *dims)
        self.values.append((tensor, values if values is not None else floats(kind, int(np.prod(dims)))))
        return tensor

    def graph(self, result, nodes=16):
        """A graph that computes `result`; a call runs one of the graphs."""
        graph = new_graph(self.context, nodes, False)
        expand(graph, result)
        self.graphs.append(graph)

    def ready(self, weight_buffers=None):
        """Allocates everything and returns the call."""
        buffer = alloc_in(self.weights, weight_buffers or default_buffers(BACKEND))
        self.buffers.append(buffer)
        # Results too are allocated at once: a case has few.
        self.buffers.append(alloc_in(self.context, default_buffers(BACKEND)))
        for tensor, values in self.values:
            tensor_set(tensor, values.ctypes.data_as(P), 0, nbytes(tensor))
        self.values = []
        take = peer.ring(self.graphs)

        def call(case=self):
            status = compute(BACKEND, take())
            if status != 0:
                raise RuntimeError(f"ggml_backend_graph_compute: {status}")

        return call

    def __del__(self):
        for buffer in self.buffers:
            if buffer:
                buffer_free(buffer)
        ggml_free(self.context)
        ggml_free(self.weights)


def floats(kind, count):
    """Random numbers as the bytes of a type without blocks."""
    numbers = RANDOM.standard_normal(count, dtype=np.float32)
    if kind == "f16":
        return numbers.astype(np.float16)
    if kind == "bf16":
        return (numbers.view(np.uint32) >> 16).astype(np.uint16)
    return numbers


def quantized(kind, rows, columns):
    """A random weight as the bytes of any type."""
    if kind in ("f32", "f16", "bf16"):
        return floats(kind, rows * columns)
    numbers = RANDOM.standard_normal(rows * columns, dtype=np.float32)
    packed = np.empty(rows * row_size(TYPES[kind], columns), dtype=np.uint8)
    quantize(TYPES[kind], numbers.ctypes.data_as(P), packed.ctypes.data_as(P), 0, rows, columns, None)
    return packed


def linear(shape, copies):
    kind = shape.get("weights", "f32")
    if kind not in TYPES:
        raise peer.Unsupported(f"no {kind} weights in this runner")
    rows, inputs, outputs = shape["rows"], shape["in_features"], shape["out_features"]
    case = Case(tensors=3 * copies + 8, nodes=16 * copies)
    x = case.input(inputs, rows)
    packed = quantized(kind, outputs, inputs)
    for _ in range(copies):
        weight = new_2d(case.weights, TYPES[kind], inputs, outputs)
        case.values.append((weight, packed))
        result = mul_mat(case.context, weight, x)
        case.graph(result)
    return case.ready(repacking(kind, inputs, outputs, rows))


def repacking(kind, inputs, outputs, rows):
    """The first kind of memory in which this product can be computed, as llama.cpp chooses when it loads a model."""
    for buffers in REPACKING:
        probe = Case(8)
        weight, x = new_2d(probe.weights, TYPES[kind], inputs, outputs), new_2d(probe.context, 0, inputs, rows)
        buffer = alloc_in(probe.weights, buffers)
        if not buffer:
            continue
        probe.buffers.append(buffer)
        if supports_op(DEVICE, mul_mat(probe.context, weight, x)):
            return buffers
    return None


def attention(shape, copies):
    batch, heads, kv_heads, size = shape["batch"], shape["heads"], shape["kv_heads"], shape["head_dim"]
    queries, keys, window = shape["queries"], shape["keys"], shape.get("window")
    kind = shape.get("cache", "f32")
    if kind not in ("f32", "f16", "bf16"):
        raise peer.Unsupported(f"no {kind} keys and values in this runner")
    case = Case(tensors=4 * copies + 8, nodes=16 * copies)
    query = case.input(size, queries, heads, batch)
    mask = None
    if (shape["causal"] and queries > 1) or window:
        place, seen = np.arange(queries)[:, None] + keys - queries, np.arange(keys)[None, :]
        hidden = seen > place if shape["causal"] else np.zeros((queries, keys), bool)
        hidden |= seen <= place - window if window else False
        values = np.where(hidden, -np.inf, 0).astype(np.float16)
        mask = case.input(keys, queries, kind="f16", values=values)
    for _ in range(copies):
        key = case.input(size, keys, kv_heads, batch, kind=kind)
        value = case.input(size, keys, kv_heads, batch, kind=kind)
        case.graph(flash_attn(case.context, query, key, value, mask, size**-0.5, 0.0, 0.0))
    return case.ready()


def row_norm(operation, epsilon):
    def prepare(shape, _):
        case = Case()
        x, weight = case.input(shape["features"], shape["rows"]), case.input(shape["features"])
        case.graph(mul(case.context, operation(case.context, x, epsilon), weight))
        return case.ready()

    return prepare


def rope(shape, _):
    case = Case()
    x = case.input(shape["head_dim"], shape["heads"], shape["seq"], shape["batch"])
    places = new_1d(case.context, 26, shape["seq"])  # 26 is i32
    case.values.append((places, np.arange(shape["seq"], dtype=np.int32)))
    parameters = (10000.0, 1.0, 0.0, 1.0, 0.0, 0.0)
    case.graph(rope_ext(case.context, x, places, None, shape["rotary_dim"], NEOX, 0, *parameters))
    return case.ready()


def gated(shape, _):
    case = Case()
    gate, up = case.input(shape["features"], shape["rows"]), case.input(shape["features"], shape["rows"])
    case.graph(swiglu(case.context, gate, up))
    return case.ready()


OPERATIONS = {
    "linear": linear,
    "packed_linear": linear,
    "attention": attention,
    "rms_norm": row_norm(rms_norm, 1e-6),
    "layer_norm": row_norm(norm, 1e-5),
    "rope": rope,
    "gated": gated,
}


def prepare(op, name, shape, copies):
    if op in MODELS:
        return MODELS[op](name, shape)
    if op not in OPERATIONS:
        raise peer.Unsupported(f"no runner for {op}")
    return OPERATIONS[op](shape, copies)


from llama_cpp_models import MODELS  # noqa: E402 (after the libraries that it shares)

# It says much of what it loads, and the log is for what goes wrong.
QUIET = llama_cpp.llama_log_callback(lambda level, text, _: None)
llama_cpp.llama_log_set(QUIET, None)

peer.serve("llama.cpp", f"(llama-cpp-python {llama_cpp.__version__})", prepare)
