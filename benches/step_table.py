"""Training steps of `trainer bench` beside PyTorch's, in turns: time and memory of several shapes, and what a token costs.

    python benches/step_table.py [--trainer target/release/trainer] [--rounds 2] [--steps 5] [--rows steps,naive,tokens]

Shapes are width x length x batch, depth 4, M 2, N 64, f32, 4096 tokens a step. Prints Markdown tables. Needs torch.
"""

import argparse
import json
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = [(384, 32, 4), (128, 32, 4), (384, 64, 1)]
# Side of the latent and batch: L 256 to 16,384.
LENGTHS = [(16, 64), (32, 16), (64, 4), (128, 1)]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", default="target/release/trainer")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rows", default="steps,naive,tokens")
    return parser.parse_args()


def ours(args, dim, side, batch, threads):
    settings = {
        "model.hidden_size": dim, "model.depth": 4, "model.input_size": side, "optim.global_batch_size": batch,
        "optim.micro_batch_size": 0, "run.threads": threads,
    }
    command = [args.trainer, "bench", "--config", "imagenet256-s", "--steps", str(args.steps), "--json"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def theirs(args, dim, side, batch, threads, *extra):
    command = [sys.executable, os.path.join(HERE, "torch_step.py"), *extra]
    settings = {"dim": dim, "side": side, "batch": batch, "threads": threads, "steps": args.steps}
    for key, value in settings.items():
        command += [f"--{key}", str(value)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def steps(args):
    print("| shape | threads | ours, ms | PyTorch, ms | ratio of the best | ours, MB | PyTorch, MB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for dim, side, batch in SHAPES:
        for threads in (1, 2):
            pairs = [(ours(args, dim, side, batch, threads), theirs(args, dim, side, batch, threads))
                     for _ in range(args.rounds)]
            mine, other = zip(*pairs)
            times = [", ".join(f"{run['best_ms']:.0f}" for run in runs) for runs in (mine, other)]
            best = [min(run["best_ms"] for run in runs) for runs in (mine, other)]
            peak = [min(run["peak_bytes"] for run in runs) / 1e6 for runs in (mine, other)]
            print(f"| D {dim}, L {side * side}, batch {batch} | {threads} | {times[0]} | {times[1]} "
                  f"| {best[0] / best[1]:.2f} | {peak[0]:.0f} | {peak[1]:.0f} | {peak[0] / peak[1]:.2f} |", flush=True)
    print(f"\nAdamW of PyTorch, without EMA, the last shape: {other[-1]['adamw_ns_per_parameter']:.2f} ns a parameter")


def naive(args):
    mine, other = ours(args, 384, 32, 4, 1), theirs(args, 384, 32, 4, 1, "--naive")
    print(f"\nPyTorch with the published kernel, D 384, L 1024, batch 4, 1 thread: {other['best_ms']:.0f} ms; "
          f"ours {mine['best_ms']:.0f} ms ({mine['best_ms'] / other['best_ms']:.3f})", flush=True)


def tokens(args):
    print("\n| L | batch | microseconds a token, 2 threads: D 384 | D 128 |\n|---|---|---|---|")
    for side, batch in LENGTHS:
        cost = [1e3 * min(ours(args, dim, side, batch, 2)["best_ms"] for _ in range(args.rounds)) / (side * side * batch)
                for dim in (384, 128)]
        print(f"| {side * side} | {batch} | {cost[0]:.1f} | {cost[1]:.1f} |", flush=True)


def main():
    args = parse()
    for name in args.rows.split(","):
        {"steps": steps, "naive": naive, "tokens": tokens}[name](args)


if __name__ == "__main__":
    main()
