"""Request and response formats of inference servers. Pure functions: bytes out, a decoded JSON object in."""

from atropos_agent.policy.wires.chat import ChatFormat
from atropos_agent.policy.wires.common import Asked, WireFormat
from atropos_agent.policy.wires.llama_cpp import LlamaCppFormat
from atropos_agent.policy.wires.sglang import SglangFormat
from atropos_agent.policy.wires.text import TextFormat
from atropos_agent.policy.wires.vllm import VllmFormat
from atropos_agent.policy.wires.vllm_generate import VllmGenerateFormat

__all__ = [
    "Asked",
    "ChatFormat",
    "LlamaCppFormat",
    "SglangFormat",
    "TextFormat",
    "VllmFormat",
    "VllmGenerateFormat",
    "WireFormat",
]
