"""Ablations: python -m experiments.ablation. Read first: questions.py."""
