"""Small keyword spotting: train a CRNN with attention, stream it, distil it, quantize it, compare.

CONTRIBUTING.md lists the modules in the order in which data flows; each imports only from those
before it. Importing the package imports none of them.
"""

__version__ = "0.1.0"
