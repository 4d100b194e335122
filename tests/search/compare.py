"""Exact search beside NumPy (argpartition over blocks of a product) and FAISS (IndexFlatIP): on the same vectors,
machine and threads, one after the other, in a process each. Prints a line of JSON for each size."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy

#: Candidates that NumPy compares a block of queries with at once.
BLOCK = 32768
#: Queries of such a block.
QUERIES = 512


def blocked(queries, candidates, count):
    """The best of every block, and then the best of those."""
    found = []
    for rows in (queries[at:at + QUERIES] for at in range(0, len(queries), QUERIES)):
        indices, values = [], []
        for at in range(0, len(candidates), BLOCK):
            product = rows @ candidates[at:at + BLOCK].T
            best = numpy.argpartition(product, -count, axis=1)[:, -count:]
            indices.append(best + at)
            values.append(numpy.take_along_axis(product, best, 1))
        indices, values = numpy.concatenate(indices, 1), numpy.concatenate(values, 1)
        order = numpy.argsort(-values, axis=1, kind="stable")[:, :count]
        found.append(numpy.take_along_axis(indices, order, 1))
    return numpy.concatenate(found)


def flat(queries, candidates, count):
    import faiss

    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(candidates)
    start = time.perf_counter()
    found = index.search(queries, count)[1]
    return found, time.perf_counter() - start


def other(name, arguments):
    """Searches in this process, with numbers that lie in memory before the clock starts."""
    queries, candidates = (numpy.fromfile(file, numpy.float32).reshape(-1, arguments.width)
                           for file in (arguments.queries, arguments.candidates))
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
        found, seconds = flat(queries, candidates, arguments.count)
    else:
        start = time.perf_counter()
        found = blocked(queries, candidates, arguments.count)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "found": found.tolist()}))


def run(command, threads):
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, env={**os.environ, **limits})
    return json.loads(done.stdout)


def compare(arguments, candidates, folder):
    """Writes unit vectors, and gives each program's median time, and how many answers are the same."""
    generator = numpy.random.default_rng(1)
    files = {}
    for name, rows in (("queries", arguments.rows), ("candidates", candidates)):
        files[name] = folder / f"{name}.f32"
        with open(files[name], "wb") as file:
            for at in range(0, rows, BLOCK):
                part = generator.standard_normal((min(BLOCK, rows - at), arguments.width), dtype=numpy.float32)
                file.write((part / numpy.linalg.norm(part, axis=1, keepdims=True)).tobytes())
    size = ["--queries", files["queries"], "--candidates", files["candidates"], "--width", arguments.width,
            "--count", arguments.count, "--threads", arguments.threads]
    commands = {"cnclip": [arguments.program, *size],
                **{name: [sys.executable, __file__, "--as", name, *size] for name in ("numpy", "faiss")}}
    times, peaks, answers = {name: [] for name in commands}, {}, {}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            done = run(command, arguments.threads)
            times[name].append(done["seconds"])
            peaks[name], answers[name] = done["peak_bytes"], numpy.array(done["found"])
    seconds = {name: sorted(all_of)[len(all_of) // 2] for name, all_of in times.items()}
    line = {"candidates": candidates, "queries": arguments.rows, "width": arguments.width,
            "threads": arguments.threads, "seconds": seconds, "all_seconds": times, "peak_bytes": peaks,
            "vector_bytes": sum(file.stat().st_size for file in files.values())}
    for name in ("numpy", "faiss"):
        line[f"ratio_to_{name}"] = seconds[name] / seconds["cnclip"]
        line[f"same_answers_as_{name}"] = float((answers[name] == answers["cnclip"]).mean())
    print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", help="what `cargo bench --bench search --no-run` built")
    parser.add_argument("--sizes", type=int, nargs="+", default=[30_000, 1_000_000], help="candidates")
    parser.add_argument("--rows", type=int, default=5_000, help="queries")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    for name in ("--as", "--queries", "--candidates"):
        parser.add_argument(name, dest={"--as": "name"}.get(name, name.strip("-")), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.name:
        return other(arguments.name, arguments)
    with tempfile.TemporaryDirectory() as folder:
        for candidates in arguments.sizes:
            compare(arguments, candidates, Path(folder))


if __name__ == "__main__":
    main()
