"""Ablations: python -m experiments.ablation. Start reading with questions.py."""
