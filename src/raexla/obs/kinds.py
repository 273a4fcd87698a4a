"""What kind of work an operation is: by XLA's opcode, by a fusion's contents, or by its name alone."""

import re
from collections.abc import Iterable

PRODUCTS, KERNELS, COLLECTIVES = "matrix products", "attention and kernels", "collectives"
MEMORY, REDUCTIONS, ELEMENTWISE = "copies and layout", "reductions", "elementwise"
CONTROL, TRANSFERS = "loops and calls", "transfers"

_COLLECTIVE = ("all-gather", "all-reduce", "all-to-all", "reduce-scatter", "collective-", "ragged-all-to-all")
_MEMORY = {
    "bitcast", "bitcast-convert", "broadcast", "concatenate", "copy", "copy-done", "copy-start", "data-formatting",
    "dynamic-slice", "dynamic-update-slice", "gather", "get-tuple-element", "iota", "pad", "reshape", "reverse",
    "scatter", "slice", "transpose", "tuple", "wrapped",
}  # fmt: skip
_REDUCTIONS = {"reduce", "reduce-window", "select-and-scatter", "sort", "topk"}
_CONTROL = {"while", "call", "conditional", "async-start", "async-done", "async-update"}
_TRANSFERS = {"infeed", "outfeed", "send", "send-done", "recv", "recv-done"}
_NOTHING = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "broadcast"}
_PRODUCT_TARGET = re.compile(r"gemm|matmul|dot|conv", re.IGNORECASE)

_SHAPE = (
    r"_?to|cat|index\w*|gather|scatter\w*|embedding\w*|fill_?|zero\w*|select\w*|slice\w*|expand|t|transpose|permute"
)
_TORCH = (
    (KERNELS, r"scaled_dot_product|flash|fmha|attention"),
    (COLLECTIVES, r"nccl|gloo|c10d|all_?reduce|all_?gather|reduce_scatter"),
    (CONTROL, r"^autograd::|Backward\d+$"),
    (PRODUCTS, r"\b(add|baddb|b)?mm\b|matmul|linear|gemm|cutlass|conv|\bdot\b|einsum|cublas"),
    (TRANSFERS, r"memcpy|HtoD|DtoH"),
    (MEMORY, rf"copy|clone|contiguous|view|shape|stack|pad|memset|empty|strided|squeeze|::({_SHAPE})$"),
    (REDUCTIONS, r"sum|mean|norm|softmax|reduce|sort|topk|::(max|min|all|any)$"),
)


def kind_of_opcode(opcode: str, target: str = "") -> str:
    """The kind of an HLO instruction; `target` is a custom call's."""
    if opcode in ("dot", "convolution") or (opcode == "custom-call" and _PRODUCT_TARGET.search(target)):
        return PRODUCTS
    if opcode == "custom-call":
        return KERNELS
    if opcode.startswith(_COLLECTIVE):
        return COLLECTIVES
    for kind, opcodes in (
        (MEMORY, _MEMORY), (REDUCTIONS, _REDUCTIONS), (CONTROL, _CONTROL), (TRANSFERS, _TRANSFERS)
    ):  # fmt: skip
        if opcode in opcodes:
            return kind
    return ELEMENTWISE


def kind_of_fusion(opcodes: Iterable[str]) -> str:
    """The kind of a fusion of such instructions: that of the hardest work in it; elementwise if none is known."""
    opcodes = list(opcodes)
    if not opcodes:
        return ELEMENTWISE
    kinds = {kind_of_opcode(opcode) for opcode in opcodes if opcode not in _NOTHING}
    order = (PRODUCTS, COLLECTIVES, KERNELS, REDUCTIONS, ELEMENTWISE, TRANSFERS, CONTROL)
    return next((kind for kind in order if kind in kinds), MEMORY)


def kind_of_category(category: str) -> str:
    """The kind that a TPU's `hlo_category` means: `convolution fusion`, `loop fusion`, `data formatting`, ..."""
    words = category.lower()
    if words.startswith("custom"):
        return KERNELS
    if words.endswith("fusion"):
        return kind_of_fusion(_opcodes(words.removesuffix("fusion")))
    return kind_of_opcode(words.replace(" ", "-"))


def kind_of_name(name: str) -> str:
    """The kind of one of XLA's operations by its name alone: `dot.3`, `multiply_reduce_fusion.10.clone`."""
    plain = re.sub(r"(\.(\d+|clone|remat\d*))+$", "", name)
    if plain.endswith("fusion"):
        return kind_of_fusion(_opcodes(plain.removesuffix("fusion")))
    return kind_of_opcode(plain)


def kind_of_torch(name: str) -> str:
    """The kind of one of PyTorch's operators or kernels: `aten::addmm`, `sm90_xmma_gemm_bf16bf16_bf16f32`."""
    return next((kind for kind, words in _TORCH if re.search(words, name)), ELEMENTWISE)


def _opcodes(words: str) -> list[str]:
    return [word for word in re.split(r"[_ ]+", words) if word and word not in ("loop", "input", "output", "wrapped")]
