"""Figures: contact sheets, confusion matrices, heat maps."""
