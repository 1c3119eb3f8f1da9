"""Transfer learning: python -m experiments.transfer. Read strategies.py first."""
