"""Small keyword spotting: a CRNN with attention, trained, streamed, distilled and quantized."""

__version__ = "0.1.0"
