"""Benchmarks exact search against NumPy (argpartition of blocks of a matrix product) and FAISS (IndexFlatIP).

All search the same vectors with the same number of threads, one after the other, each in a process of its own, so that
its peak memory can be measured. Prints a line of JSON for each number of candidates.
"""

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

CANDIDATE_BLOCK = 32768
QUERY_BLOCK = 512
"""The sizes of the blocks whose products NumPy computes at once."""


def search_with_numpy(queries, candidates, count):
    """The indices of the best candidates: first those of every block, then the best of these."""
    found = []
    for query in range(0, len(queries), QUERY_BLOCK):
        rows = queries[query:query + QUERY_BLOCK]
        indices, values = [], []
        for candidate in range(0, len(candidates), CANDIDATE_BLOCK):
            product = rows @ candidates[candidate:candidate + CANDIDATE_BLOCK].T
            best = numpy.argpartition(product, -count, axis=1)[:, -count:]
            indices.append(best + candidate)
            values.append(numpy.take_along_axis(product, best, 1))
        indices = numpy.concatenate(indices, 1)
        values = numpy.concatenate(values, 1)
        order = numpy.argsort(-values, axis=1, kind="stable")[:, :count]
        found.append(numpy.take_along_axis(indices, order, 1))
    return numpy.concatenate(found)


def search_with_faiss(queries, candidates, count):
    """The indices of the best candidates, and the seconds of the search without building the index."""
    import faiss  # imported here, so that the NumPy process does not load it

    index = faiss.IndexFlatIP(queries.shape[1])
    index.add(candidates)
    start = time.perf_counter()
    found = index.search(queries, count)[1]
    return found, time.perf_counter() - start


def measure(name, arguments):
    """Searches in this process and prints seconds, peak memory and results. Reading the vectors is not timed."""
    queries, candidates = (numpy.fromfile(file, numpy.float32).reshape(-1, arguments.width)
                           for file in (arguments.queries, arguments.candidates))
    if name == "faiss":
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
        found, seconds = search_with_faiss(queries, candidates, arguments.count)
    else:
        start = time.perf_counter()
        found = search_with_numpy(queries, candidates, arguments.count)
        seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak_bytes": peak, "found": found.tolist()}))


def run(command, threads):
    """Runs a program that prints a line of JSON, with a limit on its threads; returns the parsed line."""
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, env={**os.environ, **limits})
    return json.loads(done.stdout)


def compare(arguments, candidates, folder):
    """Writes normalized vectors, runs all programs on them, and prints median times and the share of equal results."""
    generator = numpy.random.default_rng(1)
    files = {}
    for name, rows in (("queries", arguments.rows), ("candidates", candidates)):
        files[name] = folder / f"{name}.f32"
        with open(files[name], "wb") as file:
            for start in range(0, rows, CANDIDATE_BLOCK):
                shape = (min(CANDIDATE_BLOCK, rows - start), arguments.width)
                vectors = generator.standard_normal(shape, dtype=numpy.float32)
                file.write((vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True)).tobytes())
    size = ["--queries", files["queries"], "--candidates", files["candidates"], "--width", arguments.width,
            "--count", arguments.count, "--threads", arguments.threads]
    commands = {"cnclip": [arguments.program, *size],
                **{name: [sys.executable, __file__, "--as", name, *size] for name in ("numpy", "faiss")}}
    times = {name: [] for name in commands}
    peaks, results = {}, {}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            measured = run(command, arguments.threads)
            times[name].append(measured["seconds"])
            peaks[name] = measured["peak_bytes"]
            results[name] = numpy.array(measured["found"])
    seconds = {name: sorted(runs)[len(runs) // 2] for name, runs in times.items()}
    line = {"candidates": candidates, "queries": arguments.rows, "width": arguments.width,
            "threads": arguments.threads, "seconds": seconds, "all_seconds": times, "peak_bytes": peaks,
            "vector_bytes": sum(file.stat().st_size for file in files.values())}
    for name in ("numpy", "faiss"):
        line[f"ratio_to_{name}"] = seconds[name] / seconds["cnclip"]
        line[f"same_answers_as_{name}"] = float((results[name] == results["cnclip"]).mean())
    print(json.dumps(line), flush=True)


def main():
    """Compares all sizes; with the internal option --as, measures one implementation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", help="the program that `cargo bench --bench search --no-run` builds")
    parser.add_argument("--sizes", type=int, nargs="+", default=[30_000, 1_000_000], help="numbers of candidates")
    parser.add_argument("--rows", type=int, default=5_000, help="number of queries")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    for name in ("--as", "--queries", "--candidates"):
        parser.add_argument(name, dest={"--as": "name"}.get(name, name.strip("-")), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.name:
        return measure(arguments.name, arguments)
    with tempfile.TemporaryDirectory() as folder:
        for candidates in arguments.sizes:
            compare(arguments, candidates, Path(folder))


if __name__ == "__main__":
    main()
