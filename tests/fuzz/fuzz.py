"""Fuzzes one target with atheris, and keeps each kind of failure once, as a case that a test can run again.

    pip install 'torchtune[fuzz]'
    python -m tests.fuzz.fuzz parse --seconds 600

Coverage of ``torchtune`` guides it. A failure doesn't end the run: its case is written to ``--found``, and the count of runs and
kinds of failures is printed at the end. What was mended moves to ``tests/fuzz/corpus``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path

from tests.fuzz.targets import TARGETS, Feed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="folder for the cases that failed")
    args = parser.parse_args()

    import atheris

    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["torchtune"]):
        import torchtune.config
        import torchtune.data.formats
        import torchtune.training.checkpointing._checkpointer  # noqa: F401
    make, run = TARGETS[args.target]
    kinds: dict[str, int] = {}
    runs, began = 0, time.monotonic()

    def one(data: bytes) -> None:
        nonlocal runs
        runs += 1
        if (spent := time.monotonic() - began) > args.seconds:  # libFuzzer's own end runs no code of ours
            print(f"{args.target}: {runs} runs in {spent:.0f} s, kinds of failures: {kinds or 'none'}", flush=True)
            os._exit(0)
        case = make(Feed(data))
        try:
            run(case)
        except Exception as error:
            frames = [
                f
                for f in traceback.extract_tb(error.__traceback__)
                if "torchtune" in f.filename or "fuzz" in f.filename
            ]
            last = frames[-1]
            kind = f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}"
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] == 1:
                args.found.mkdir(parents=True, exist_ok=True)
                name = f"{args.target}-{type(error).__name__}-{Path(last.filename).stem}-{last.lineno}.json"
                (args.found / name).write_text(json.dumps(case, indent=1) + "\n")
                print(f"{kind}: {str(error)[:300]}", flush=True)

    corpus = args.found / f"inputs-{args.target}"
    corpus.mkdir(parents=True, exist_ok=True)
    options = ["-max_len=600", "-timeout=20", "-rss_limit_mb=4000", "-verbosity=0"]
    atheris.Setup([sys.argv[0], str(corpus), *options, f"-artifact_prefix={args.found}{os.sep}"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
