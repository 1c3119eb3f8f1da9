"""Transfer learning: python -m experiments.transfer. Read first: strategies.py."""
