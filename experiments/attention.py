"""The former name of experiments.saliency; it goes with the next version."""

import runpy
import sys

if __name__ == "__main__":
    print("attention is now a part of: python -m experiments.saliency", file=sys.stderr)
    runpy.run_module("experiments.saliency", run_name="__main__", alter_sys=True)
