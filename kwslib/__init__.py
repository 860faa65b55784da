"""Small keyword spotting: train a CRNN with attention, stream it, distil it, quantize it, compare.

Modules in the order in which data flows; each imports only from those before it:
metrics, architecture, checkpoints, synth, data, runs, features, models, cost, training, quantization,
streaming, experiments, published, plots, report, docs, cli. Importing the package imports none of them.
"""

__version__ = "0.1.0"
