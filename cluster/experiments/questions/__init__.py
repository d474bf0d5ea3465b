"""One file for each experiment: its name, its settings and its picture. `catalog.py` lists them."""
