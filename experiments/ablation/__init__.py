"""Ablations: python -m experiments.ablation. Begin with questions.py."""
