"""Proof that our networks equal those of other libraries, and a gallery of bugs."""
