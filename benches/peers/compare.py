#!/usr/bin/env python3
"""Longtake beside llama.cpp and ik_llama.cpp: whole programs, same files, same threads, one after the other in every round.

    benches/peers/compare.py --longtake target/native/release/longtake --tests pp512,tg64,tg32@16384:q8_0 MODEL.gguf ...
    benches/peers/compare.py --longtake ... --mmproj MMPROJ-F16.gguf --encode 448x252 MODEL.gguf

The peers' sources come from PyPI (the sdists of llama-cpp-python and ik-llama-cpp-python hold them) and are compiled in
Release mode for this machine, once, below --work. It takes about half an hour on two cores and needs cmake and a C++
compiler; Python's standard library is all that this script needs.

A test is ppN or tgN, with @DEPTH for tokens already in the cache and :TYPE for the type of cached keys and values. The first
round tries every way that a peer offers (flash attention, repacked weights) and keeps the fastest for the others; the table
gives medians over the rounds, and how many times faster Longtake is. Depths are filled caches: for ik_llama.cpp by
`ik_depth.cpp`, for llama.cpp, where Longtake was built with the feature `ggml`, by `longtake bench --peer` in turn with
Longtake (`--peer-depth`; without it llama.cpp reads the whole prompt first, which can take an hour at 16k).
"""
import argparse
import json
import os
import re
import statistics
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

PEERS = {
    "llama.cpp": ("llama-cpp-python", "0.3.36", "vendor/llama.cpp", ["llama-bench", "llama-mtmd-cli"]),
    "ik_llama.cpp": ("ik-llama-cpp-python", "0.1.5", "vendor/ik_llama.cpp", ["llama-bench"]),
}
CMAKE = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_CURL=OFF",
         "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF",
         "-DLLAMA_BUILD_TOOLS=ON"]


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, **options):
    """Output of a command; its whole error output when it fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
                          errors="replace", **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done


def build(name, work, also=()):
    """Downloads, unpacks and compiles a peer, and those of its programs that few comparisons want (`also`); returns the folder
    with its programs."""
    package, version, source, targets = PEERS[name]
    targets = [*targets, *also]
    made = work / f"{name}-{version}"
    bin_dir = made / "build" / "bin"
    if all((bin_dir / target).exists() for target in targets):
        return with_depth(name, made, source)
    say(f"{name} {version}: downloading and compiling, see {made}/build.log")
    made.mkdir(parents=True, exist_ok=True)
    with open(made / "build.log", "w") as log:
        def step(command):
            subprocess.run([str(c) for c in command], stdout=log, stderr=log, check=True)
        if not any(made.glob(f"*/{source}")):
            step([sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", made,
                  f"{package}=={version}"])
            archive = next(made.glob("*.tar.gz"))
            with tarfile.open(archive) as tar:
                tar.extractall(made, filter="data")
        tree = next(made.glob(f"*/{source}"))
        # The sdist of ik_llama.cpp lacks the script that stamps a build with its commit.
        stamp = tree / "common/cmake/build-info-gen-cpp.cmake"
        if (tree / "common/build-info.cpp.in").exists() and not stamp.exists():
            stamp.parent.mkdir(exist_ok=True)
            place = "${CMAKE_CURRENT_LIST_DIR}/../build-info.cpp"
            stamp.write_text(f'set(BUILD_NUMBER 0)\nset(BUILD_COMMIT {version})\nset(BUILD_COMPILER unknown)\n'
                             f'set(BUILD_TARGET unknown)\nconfigure_file("{place}.in" "{place}")\n')
        # ik_llama.cpp keeps its bench among the examples, llama.cpp among the tools.
        examples = "ON" if (tree / "examples/llama-bench").is_dir() else "OFF"
        server = "ON" if "llama-server" in targets else "OFF"
        step(["cmake", "-S", tree, "-B", made / "build", *CMAKE, f"-DLLAMA_BUILD_EXAMPLES={examples}",
              f"-DLLAMA_BUILD_SERVER={server}"])
        step(["cmake", "--build", made / "build", "--target", *targets, "-j", os.cpu_count()])
    return with_depth(name, made, source)


def with_depth(name, made, source):
    """The folder with a peer's programs, ours for times at depth among them."""
    bin_dir, ours = made / "build" / "bin", Path(__file__).with_name("ik_depth.cpp")
    program = bin_dir / "ik_depth"
    if name == "ik_llama.cpp" and not (program.exists() and program.stat().st_mtime > ours.stat().st_mtime):
        tree = next(made.glob(f"*/{source}"))
        run(["c++", "-O2", "-std=c++17", "-I", tree / "include", "-I", tree / "ggml/include", ours, "-o", program,
             made / "build/src/libllama.a", made / "build/ggml/src/libggml.a", "-fopenmp", "-lm"])
    return bin_dir


class Test:
    """One row: `pp512`, `tg32@16384:q8_0`."""

    def __init__(self, text):
        found = re.fullmatch(r"(pp|tg)(\d+)(?:@(\d+))?(?::(\w+))?", text)
        if not found:
            raise SystemExit(f"test `{text}` must be ppN or tgN, with @DEPTH and :TYPE where wanted")
        self.text, self.kind, self.n = text, found[1], int(found[2])
        self.depth, self.cache = int(found[3] or 0), found[4] or "f16"

    def shape(self):
        n_prompt, n_gen = (self.n, 0) if self.kind == "pp" else (0, self.n)
        return ["-p", n_prompt, "-n", n_gen, "-ctk", self.cache, "-ctv", self.cache]


class Longtake:
    name = "longtake"

    def __init__(self, program, threads):
        self.program, self.threads = program, threads

    def ways(self, test):
        return [()]

    def rate(self, model, test, way):
        command = [self.program, "bench", "-m", model, *test.shape(), "-d", test.depth, "-e", "none", "-r", 1,
                   "-t", self.threads, "-o", "json"]
        return json.loads(run(command).stdout)[0]["avg_ts"]

    def beside_peer(self, model, test, rounds):
        """Median rates of ours and of llama.cpp over a filled cache, and how the latter ran."""
        command = [self.program, "bench", "-m", model, *test.shape(), "-d", test.depth, "-e", "none", "-r", rounds,
                   "-t", self.threads, "-o", "json", "--peer"]
        row = json.loads(run(command).stdout)[0]
        rates = [[test.n * 1e9 / ns for ns in row[key]] for key in ("samples_ns", "peer_samples_ns")]
        return rates[0], rates[1], row["peer_options"] + ", filled cache"


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, bin_dir, threads):
        self.bench, self.threads = bin_dir / "llama-bench", threads

    def ways(self, test):
        # A quantized cache of values needs flash attention.
        flash = ["on"] if test.cache not in ("f16", "f32", "bf16") else ["on", "off"]
        return [("--repack", repack, "-fa", fa) for repack in (0, 1) for fa in flash]

    def rate(self, model, test, way):
        command = [self.bench, "-m", model, *test.shape(), "-d", test.depth, "-r", 1, "-t", self.threads, "-ngl", 0,
                   "-o", "json", *way]
        return json.loads(run(command).stdout)[0]["avg_ts"]


class IkLlamaCpp:
    name = "ik_llama.cpp"

    def __init__(self, bin_dir, threads):
        self.bench, self.depth, self.threads = bin_dir / "llama-bench", bin_dir / "ik_depth", threads

    def ways(self, test):
        flash = [1] if test.depth or test.cache not in ("f16", "f32", "bf16") else [1, 0]
        return [("-fa", fa, "-rtr", rtr) for fa in flash for rtr in (1, 0)]

    def rate(self, model, test, way):
        if test.depth:
            repack = way[way.index("-rtr") + 1]
            return float(run([self.depth, model, test.cache, self.threads, repack, test.kind, test.n, test.depth]).stdout)
        command = [self.bench, "-m", model, "-ctk", test.cache, "-ctv", test.cache, "-r", 1, "-t", self.threads,
                   "-ngl", 0, "-o", "json", *way, *test.shape()[:4]]
        return json.loads(run(command).stdout)[-1]["avg_ts"]


def compare(model, tests, programs, rounds, peer_depth):
    """Rates per test and program: (rates, way), or the reason why there are none."""
    results = {}
    for test in tests:
        row, best = {}, {}
        filled = peer_depth and test.depth
        if filled:
            ours, theirs, how = programs[0].beside_peer(model, test, rounds)
            row["longtake"], row["llama.cpp"] = (ours, ""), (theirs, how)
            say(f"{model.name} {test.text}: {statistics.median(ours):.2f}, llama.cpp {statistics.median(theirs):.2f}")
        for round_ in range(rounds):
            for program in programs:
                name = program.name
                if filled and name != "ik_llama.cpp":
                    continue
                try:
                    if round_ == 0:
                        tried = [(program.rate(model, test, way), way) for way in program.ways(test)]
                        rate, best[name] = max(tried)
                        for one, way in tried:
                            say(f"{model.name} {test.text} {name} {' '.join(map(str, way))}: {one:.2f}")
                        row[name] = ([rate], " ".join(map(str, best[name])))
                    elif name in best:
                        rate = program.rate(model, test, best[name])
                        row[name][0].append(rate)
                        say(f"{model.name} {test.text} {name}: {rate:.2f}")
                except RuntimeError as err:
                    say(f"{name} cannot run {test.text}: {err}")
                    row.setdefault(name, ([], "failed"))
        results[test.text] = row
    return results


def print_table(model, results, names):
    print(f"\n{model.name}, tokens per second, medians\n")
    peers = [name for name in names if name != "longtake"]
    print("| test | longtake | " + " | ".join(f"{p} | ratio | its options" for p in peers) + " |")
    print("| --- | ---: |" + " ---: | ---: | --- |" * len(peers))
    for test, row in results.items():
        ours = statistics.median(row["longtake"][0])
        cells = []
        for peer in peers:
            rates, way = row.get(peer, ([], ""))
            if rates:
                median = statistics.median(rates)
                cells.append(f"{median:.2f} | {ours / median:.2f} | {way}")
            else:
                cells.append(f"– | – | {way}")
        print(f"| {test} | {ours:.2f} | " + " | ".join(cells) + " |")


def write_png(path, width, height):
    """A picture with some structure, as an uncompressed-looking PNG."""
    rows = b"".join(b"\0" + bytes(v & 255 for x in range(width) for v in (x * 3 + y, y * 5, x ^ y)) for y in range(height))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def encode(args, model, bin_dir):
    """Milliseconds to encode a picture, in turn."""
    width, height = (int(side) for side in args.encode.split("x"))
    picture = args.work / f"{args.encode}.png"
    write_png(picture, width, height)
    ours, theirs = [], []
    for _ in range(args.rounds):
        command = [args.longtake, "bench", "-m", model, "--mmproj", args.mmproj, "-p", 0, "-n", 0, "-e", args.encode,
                   "-r", 1, "-t", args.threads, "-o", "json"]
        ours.append(1e3 / json.loads(run(command).stdout)[0]["avg_ts"])
        command = [bin_dir / "llama-mtmd-cli", "-m", model, "--mmproj", args.mmproj, "--image", picture, "-p", "x", "-n", 1,
                   "-t", args.threads, "-ngl", 0, "--no-warmup", "-c", 4096]
        done = run(command)
        found = re.findall(r"(?:encoded|encoding done) in (\d+) ms", done.stdout + done.stderr)
        if not found:
            raise RuntimeError(f"llama-mtmd-cli does not say how long it encoded:\n{done.stderr[-2000:]}")
        theirs.append(float(found[-1]))
        say(f"encode {args.encode}: longtake {ours[-1]:.0f} ms, llama.cpp {theirs[-1]:.0f} ms")
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"\nencode {args.encode} with {args.mmproj.name}: longtake {a:.0f} ms, llama.cpp {b:.0f} ms, ratio {b / a:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--longtake", type=Path, required=True, help="the program to compare")
    parser.add_argument("--tests", default="pp512,tg64", help="comma list (default: pp512,tg64; empty for none)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peers", default="llama.cpp,ik_llama.cpp")
    parser.add_argument("--peer-depth", action="store_true", help="llama.cpp at depth through `longtake bench --peer`")
    parser.add_argument("--mmproj", type=Path, help="projector for --encode")
    parser.add_argument("--encode", help="WIDTHxHEIGHT of a picture to encode in llama.cpp and Longtake")
    parser.add_argument("--work", type=Path, default=Path("target/peers"), help="where peers are built")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    tests = [Test(text) for text in args.tests.split(",") if text]
    names = [name for name in args.peers.split(",") if name]
    dirs = {name: build(name, args.work) for name in names}
    made = {"llama.cpp": LlamaCpp, "ik_llama.cpp": IkLlamaCpp}
    programs = [Longtake(args.longtake, args.threads)] + [made[name](dirs[name], args.threads) for name in names]
    for model in args.models:
        if tests:
            print_table(model, compare(model, tests, programs, args.rounds, args.peer_depth), ["longtake", *names])
        if args.encode:
            encode(args, model, dirs["llama.cpp"])


if __name__ == "__main__":
    main()
