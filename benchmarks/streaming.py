"""Memory while a stream reads a million rows; how near interleaving keeps its weights; that a killed run goes on where it was.

python benchmarks/streaming.py [--rows N]

Rows are written to a folder for the time of the run (about 170 MB for a million), and read shuffled by two ranks in turn: rank
0 of two reads all of its rows, and says what the process holds on the way. Then two such files are interleaved 3 : 1. Then a
process is killed in the middle of reading, and another goes on from the state that it saved last.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from torchtune.datasets import InterleavedDataset, StreamingDataset

READER = """
import json, os, sys
from torchtune.datasets import StreamingDataset
path, state, out = sys.argv[1:4]
ds = StreamingDataset("json", data_files=path)
if os.path.exists(state):
    ds.load_state_dict(json.load(open(state)))
out = open(out, "a")
for number, row in enumerate(ds):
    print(row["id"], file=out, flush=True)
    json.dump(ds.state_dict(), open(state + ".new", "w"))
    os.replace(state + ".new", state)
    if len(sys.argv) > 4 and number == int(sys.argv[4]): print("there", flush=True); input()
    if len(sys.argv) > 5 and number == int(sys.argv[5]): break
"""


def held_mb() -> float:
    """What the process holds in memory now, pages of files left out."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) / 1024


def write_rows(path: Path, count: int, name: str) -> str:
    with path.open("w") as file:
        for number in range(count):
            said = [
                {"role": "user", "content": f"What is {number} and {number % 97}?"},
                {"role": "assistant", "content": f"It is {number}."},
            ]
            file.write(json.dumps({"id": number, "of": name, "messages": said}) + "\n")
    return str(path)


def kill_and_resume(path: str, folder: Path) -> str:
    """Kills a reader after 5,000 rows, lets another read 5,000 more, and compares with one that was never killed."""
    arguments = [sys.executable, "-c", READER, path, str(folder / "state"), str(folder / "read")]
    first = subprocess.Popen([*arguments, "4999"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    first.wait()
    subprocess.run([*arguments, "-1", "4999"], check=True)
    found = (folder / "read").read_text().split()
    whole = StreamingDataset("json", data_files=path)
    wanted = [str(row["id"]) for row, _ in zip(whole, range(10_000), strict=False)]
    return "the very next row" if found == wanted else f"NOT the next row: {len(found)} rows, {len(wanted)} expected"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(Path(folder) / "a.jsonl", args.rows, "a")
        seen = [bytearray(args.rows), bytearray(args.rows)]
        marks = [args.rows // 200, args.rows // 8, args.rows // 4, args.rows // 2]
        for rank in range(2):
            stream = StreamingDataset("json", data_files=path)
            stream.split(2, rank)
            started, memory = time.process_time(), []
            for number, row in enumerate(stream, start=1):
                seen[rank][row["id"]] += 1
                if number in marks:
                    memory.append(f"{held_mb():.0f} MB after {2 * number:,}")
            print(
                f"rank {rank}: {sum(seen[rank]):,} rows, {time.process_time() - started:.0f} s of the processor: "
                + ", ".join(memory)
            )
        both = Counter(one + other for one, other in zip(*seen, strict=True))
        print(f"rows that both ranks saw together: {dict(both)} (times seen: rows)")
        other = write_rows(Path(folder) / "b.jsonl", max(args.rows // 10, 1), "b")
        parts = [StreamingDataset("json", data_files=one, repeat=True) for one in (path, other)]
        mixed, shares = Counter(), []
        for number, row in enumerate(InterleavedDataset(parts, [3, 1]), start=1):
            mixed[row["of"]] += 1
            if number >= 1000:
                shares.append(mixed["a"] / number)
            if number == min(args.rows, 100_000):
                break
        print(
            f"interleaved 3 : 1, share of the first after 1,000 rows and more: {min(shares):.4f} to {max(shares):.4f}"
        )
        print(f"killed after 5,000 rows and resumed: goes on with {kill_and_resume(path, Path(folder))}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
