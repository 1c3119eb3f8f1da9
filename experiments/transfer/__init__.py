"""Transfer learning: python -m experiments.transfer. Begin with strategies.py."""
