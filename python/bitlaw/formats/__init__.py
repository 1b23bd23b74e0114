"""Formats by name, and what a compression is: spec strings, schemes, quantizers."""

from bitlaw.formats.format import FORMATS, Format
from bitlaw.formats.quantizer import Quantizer, fake_quantize
from bitlaw.formats.scheme import Scheme
from bitlaw.formats.sparse_spec import SparseSpec
from bitlaw.formats.spec import QuantSpec

__all__ = ["FORMATS", "Format", "QuantSpec", "Quantizer", "Scheme", "SparseSpec", "fake_quantize"]
