"""Formats by name, and what a compression is: spec strings, schemes, quantizers, codes."""

from bitlaw.formats.delayed import DelayedQuantizer, delayed_fake_quantize, delayed_history
from bitlaw.formats.dot import dot_general, make_dot_general
from bitlaw.formats.fake_quantization import fake_quantize
from bitlaw.formats.format import FORMATS, Format
from bitlaw.formats.key import derived_key
from bitlaw.formats.learned import LearnedQuantizer, learned_fake_quantize, learned_scales
from bitlaw.formats.qarray import QArray, dequantize, quantize
from bitlaw.formats.quantizer import Quantizer
from bitlaw.formats.save import load, save
from bitlaw.formats.saved import saved_bytes
from bitlaw.formats.scheme import Scheme, parse_quant
from bitlaw.formats.sparse_spec import SparseSpec
from bitlaw.formats.spec import QuantSpec
from bitlaw.formats.ste import UserQuantizer, UserSpec, ste
from bitlaw.formats.tree import compress_params, decompress_params, quantize_params

__all__ = [
    "FORMATS",
    "DelayedQuantizer",
    "Format",
    "LearnedQuantizer",
    "QArray",
    "QuantSpec",
    "Quantizer",
    "Scheme",
    "SparseSpec",
    "UserQuantizer",
    "UserSpec",
    "compress_params",
    "decompress_params",
    "delayed_fake_quantize",
    "delayed_history",
    "dequantize",
    "derived_key",
    "dot_general",
    "fake_quantize",
    "learned_fake_quantize",
    "learned_scales",
    "load",
    "make_dot_general",
    "parse_quant",
    "quantize",
    "quantize_params",
    "save",
    "saved_bytes",
    "ste",
]
