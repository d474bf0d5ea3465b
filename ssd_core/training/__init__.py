"""How the embedded pair was made: `python -m ssd_core.training.pair --help`."""
