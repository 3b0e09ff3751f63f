#!/usr/bin/env python3
"""What the CUDA kernels take of a multiprocessor: registers, spills, shared memory, as ptxas tells.

    python3 benches/ptxas_table.py [--into docs/gpu-kernels.md]

Needs nvcc on PATH, and no GPU. Compiles every file of trainer/kernels for sm_80 and sm_90 and prints a Markdown table, or
puts it between the marks of a document. Ends with an error when a kernel spills registers.
"""
import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
KERNELS = ROOT / "trainer" / "kernels"
BEGIN, END = "<!-- begin: benches/ptxas_table.py -->", "<!-- end -->"


def resources(path, arch, folder):
    """Name -> (registers, spilled bytes, stack bytes, static shared memory) of the kernels of a file."""
    command = ["nvcc", "-std=c++17", f"-arch={arch}", "-cubin", "-I", KERNELS, "-Xptxas", "-v", path, "-o", f"{folder}/out"]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"nvcc does not compile {path}:\n{run.stderr}")
    found, name = {}, None
    for line in run.stderr.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = match[1]
            found[name] = [0, 0, 0, 0]
        elif match := re.search(r"Function properties for (\w+)", line):
            name = match[1]
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if name in found:
                found[name][1:3] = [int(match[2]) + int(match[3]), int(match[1])]
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            # The line belongs to the entry function, whatever function was described before.
            entry = [key for key, value in found.items() if value[0] == 0]
            for key in entry[-1:]:
                found[key][0], found[key][3] = int(match[1]), int(shared[1]) if shared else 0
    return found


def table():
    rows, spilled = [], []
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(KERNELS.glob("*.cu")):
            by_arch = [resources(path, arch, folder) for arch in ("sm_80", "sm_90")]
            for name in sorted(by_arch[0]):
                (r80, s80, stack80, shared), (r90, s90, _, _) = (found[name] for found in by_arch)
                rows.append(f"| {name} | {r80} | {r90} | {s80} | {s90} | {stack80} | {shared:,} |")
                spilled += [name] if s80 or s90 else []
    head = [
        "| kernel | registers sm_80 | sm_90 | spilled bytes sm_80 | sm_90 | stack | static shared |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    return "\n".join(head + rows), spilled


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=pathlib.Path, help="a document with the marks of this script")
    arguments = parser.parse_args()
    text, spilled = table()
    if arguments.into:
        document = arguments.into.read_text()
        before, rest = document.split(BEGIN)
        arguments.into.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")
    else:
        print(text)
    if spilled:
        sys.exit(f"registers are spilled by {', '.join(spilled)}")


if __name__ == "__main__":
    main()
