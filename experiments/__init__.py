"""What a claim is: experiments that train, compare and report. Run them from the root, as
`python -m experiments.NAME`. Read first: train.py (the loop), then ablation.py (the questions).
"""
