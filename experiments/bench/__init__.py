"""Speed: python -m experiments.bench."""
