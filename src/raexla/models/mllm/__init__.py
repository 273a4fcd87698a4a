"""The multimodal language model: text and image features in, answers and conditions out (000, sec. 3; facts A1, A2).

Any `Qwen2ForCausalLM` folder, plus what makes it see and draw: learned queries whose final hidden states condition the
diffusion model token by token (connector), and a projector that turns encoder features into input embeddings. All
shapes are static: image slots are filled by a gather and a select, never by indexing with a mask.
"""

from raexla.models.mllm.build import build_mllm, load_mllm, read_llm_config
from raexla.models.mllm.decode import DecodeState, extend, prefill
from raexla.models.mllm.model import MLLM, init_weights
from raexla.models.mllm.recipe import MLLMRecipe
from raexla.models.mllm.sharding import sharding_table
from raexla.models.mllm.tokenizer import IMAGE_END, IMAGE_START, Tokenizer, load_tokenizer
from raexla.models.mllm.unified import Input, UnifiedModel

__all__ = [
    "IMAGE_END",
    "IMAGE_START",
    "MLLM",
    "DecodeState",
    "Input",
    "MLLMRecipe",
    "Tokenizer",
    "UnifiedModel",
    "build_mllm",
    "extend",
    "init_weights",
    "load_mllm",
    "load_tokenizer",
    "prefill",
    "read_llm_config",
    "sharding_table",
]
