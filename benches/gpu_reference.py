r"""Training steps of DiffuSSM in PyTorch on a GPU: the peer of `trainer bench --device cuda`.

    python benches/gpu_reference.py [--config imagenet256-xl] [--batch 32] [--set input_size=64] [--factored] [--eager]
    trainer bench --device cuda --config imagenet256-xl --set optim.global_batch_size=32 --set optim.micro_batch_size=32 \
        --set run.precision=bf16
    python benches/gpu_reference.py --device cpu --check            (no GPU: the golden tensors)

Plain modules of the shapes of trainer/configs, as a PyTorch user would write them: S4D kernels by their Vandermonde product
(with --factored by two factors of it), the long convolution by torch.fft in f32, everything else under bf16 autocast with
an f32 residual stream, torch.compile, fused AdamW, the moving average by a foreach operation. A step draws latents, noise,
timesteps and the dropping of labels on the device, and has the loss of the paper, variational bound included.
Compiled, the Vandermonde matrix is never in memory; with --eager it is, of every block: prefer --factored there.
Prints ms a step (median), images/s, the most memory held, and the MFU by the count of trainer/src/cost.rs.

--check loads the golden models of tests/golden, runs them forward and backward as the step does (compiled, unless --eager) and
fails where a tensor is beyond the limit that its file states, or under autocast a few per cent; likewise the loss and steps of
AdamW. A configuration that leaves its shape to the dataset gets it by --set (demo: input_size=8, num_classes=10).
Needs torch, and safetensors for --check.
"""

import argparse
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

from gpu_model import ROOT, SSM_SUFFIXES, TIMESTEPS, Diffusion, DiffuSsm, Shape, optimizer_of

# Operations a second of matrix products, dense, by the data sheets: of f32 outside of tensor cores, and of bf16.
PEAKS = {"A100": {"f32": 19.5e12, "bf16": 312e12}, "H100": {"f32": 66.9e12, "bf16": 989e12}}
PEAKS["H200"] = PEAKS["H100"]
# Types of parameters and inputs by precision; bf16 is autocast. The golden files state limits for the others.
DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.float32}
BF16_LIMITS = {"out": 0.03, "grad": 0.1}


class Clock:
    """Milliseconds between marks: of the device's own clock where there is one, so that the host may run ahead."""

    def __init__(self, device):
        self.device, self.marks = device, []

    def mark(self):
        if self.device.type == "cuda":
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()
        else:
            self.marks.append(time.perf_counter())

    def milliseconds(self):
        pairs = list(zip(self.marks, self.marks[1:]))
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return [a.elapsed_time(b) for a, b in pairs]
        return [1e3 * (b - a) for a, b in pairs]


def measure(args, shape, device):
    torch.manual_seed(0)
    with device:
        model, diffusion = DiffuSsm(shape, args.factored, args.recompute), Diffusion()
    parameters = list(model.parameters())
    ema = [p.detach().clone() for p in parameters]
    optimizer = optimizer_of(model, 1e-4, 1e-4)
    images = (args.batch, shape.in_channels, shape.input_size, shape.input_size)

    def loss_of(x_start, noise, t, labels):
        x_t = diffusion.noised(x_start, noise, t)
        with torch.autocast(device.type, torch.bfloat16, enabled=args.precision == "bf16"):
            output = model(x_t, t, labels)
        return diffusion.loss(output, x_start, noise, x_t, t)

    if not args.eager:
        loss_of = torch.compile(loss_of, mode=args.mode)

    def step():
        x_start, noise = torch.randn(images, device=device), torch.randn(images, device=device)
        t = torch.randint(TIMESTEPS, (args.batch,), device=device)
        labels = torch.randint(max(shape.num_classes, 1), (args.batch,), device=device)
        if shape.num_classes and shape.class_dropout_prob:
            dropped = torch.rand(args.batch, device=device) < shape.class_dropout_prob
            labels = labels.masked_fill(dropped, shape.num_classes)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x_start, noise, t, labels)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1e-4)
        return loss

    for _ in range(args.warmup):
        loss = step()
    if not math.isfinite(loss.item()):
        sys.exit(f"the loss is {loss.item()}: what follows would not be a training step")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = Clock(device)
    clock.mark()
    for _ in range(args.steps):
        step()
        clock.mark()
    times = clock.milliseconds()
    report(args, shape, device, times, sum(p.numel() for p in parameters))


def report(args, shape, device, times, parameters):
    median, is_cuda = statistics.median(times), device.type == "cuda"
    name = torch.cuda.get_device_name(device) if is_cuda else "cpu"
    # Two operations a multiply-add, and two more passes in the backward.
    flops = 2e9 * 3 * args.batch * shape.gflops_per_image()
    peaks = [peak[args.precision] for known, peak in PEAKS.items() if known in name]
    found = {
        "device": name, "torch": torch.__version__, "config": args.config, "parameters": parameters, "batch": args.batch,
        "precision": args.precision, "compiled": not args.eager, "factored": args.factored, "recompute": args.recompute,
        "ms_per_step": median, "best_ms": min(times), "images_per_second": 1e3 * args.batch / median,
        "gflops_per_image": shape.gflops_per_image(), "mfu": flops / (median / 1e3) / peaks[0] if peaks else None,
        "peak_bytes": torch.cuda.max_memory_allocated() if is_cuda else None,
        "reserved_bytes": torch.cuda.max_memory_reserved() if is_cuda else None,
    }
    if args.json:
        print(json.dumps(found))
        return
    mfu = f"MFU {100 * found['mfu']:.1f} %" if peaks else "MFU not known"
    memory = f", {found['peak_bytes'] / 1e9:.1f} GB at most" if is_cuda else ""
    print(f"{args.config}, {parameters / 1e6:.1f} M parameters, batch {args.batch}, {args.precision}, "
          f"PyTorch {torch.__version__}{'' if args.eager else ' compiled'}")
    print(f"{name}: {median:.1f} ms a step (best {min(times):.1f}), {found['images_per_second']:.1f} images/s, {mfu}{memory}")


def golden(path, device, dtype):
    """Metadata and tensors of a golden file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    convert = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in tensors.items()}
    return {key: json.loads(metadata[key]) for key in ("config", "args", "tolerance") if key in metadata}, convert


def run_golden(args, kind, case, tensors, device, precision):
    """The answers to a golden file by name; none where it asks for another architecture."""
    wrap, dtype = (lambda f: f) if args.eager else torch.compile, DTYPES[precision]
    if kind == "diffusion":
        names = ("in.model_output", "in.x_start", "in.noise", "in.t")
        output, x_start, noise, t = (tensors[name] for name in names)
        diffusion = Diffusion().to(device)
        output.requires_grad_()
        x_t = diffusion.noised(x_start, noise, t)
        loss = wrap(diffusion.loss)(output, x_start, noise, x_t, t)
        loss.backward()
        return {"out.loss": loss.detach().reshape(1), "grad.model_output": output.grad}
    shape = Shape.of_golden(case["config"])
    if shape is None:
        return None
    model = DiffuSsm(shape, args.factored).to(device, dtype)
    model.load_state_dict({name[2:]: t for name, t in tensors.items() if name.startswith("w.")})
    x, t, labels = tensors["in.x"], tensors["in.t"], tensors.get("in.y")

    @wrap
    def forward(x, t, labels):
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return model(x, t, labels)

    if kind == "adamw":
        of = case["args"]
        assert set(of["no_decay_suffixes"]) == {f"ssm.{suffix}" for suffix in SSM_SUFFIXES}, of["no_decay_suffixes"]
        optimizer, losses = optimizer_of(model, of["lr"], of["ssm_lr"], of["betas"], of["eps"], of["weight_decay"]), []
        for _ in range(of["steps"]):
            optimizer.zero_grad(set_to_none=True)
            loss = F.mse_loss(forward(x, t, labels), tensors["in.target"])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        weights = {f"out.w.{name}": p.detach() for name, p in model.named_parameters()}
        return {"out.losses": torch.stack(losses), **weights}
    x.requires_grad_()
    output = forward(x, t, labels)
    (output * tensors["up.o"]).sum().backward()
    gradients = {f"grad.{name}": p.grad for name, p in model.named_parameters()}
    return {"out.o": output.detach(), "grad.x": x.grad, **gradients}


def check(args, device):
    """Exits with 1 where anything is beyond its limit."""
    bad, models = [], 0
    for path in sorted((ROOT / "tests" / "golden").glob("*.safetensors")):
        kind = kind_of(path)
        if kind not in ("model", "adamw", "diffusion"):
            continue
        for name, dtype in DTYPES.items():
            torch.compiler.reset()
            case, tensors = golden(path, device, dtype)
            limits = case["tolerance"].get(name, BF16_LIMITS if (kind, name) == ("model", "bf16") else None)
            if limits is None:
                continue
            found = run_golden(args, kind, case, tensors, device, name)
            if found is None:
                print(f"{path.stem}: another architecture")
                break
            scale = case["args"]["steps"] * case["args"]["lr"] if kind == "adamw" else None
            worst = {}
            for tensor, got in found.items():
                want, prefix = tensors[tensor], max((p for p in limits if tensor.startswith(p)), key=len)
                assert got.shape == want.shape, f"{tensor} has the shape {got.shape}, expected {want.shape}"
                unit = scale if scale and tensor.startswith("out.w.") else want.abs().max().item()
                error = (got - want).abs().max().item() / max(unit, 1e-30)
                worst[prefix] = max(worst.get(prefix, 0.0), error)
                # The answers are rounded to f32: no better than half a unit of its last place.
                if not error <= max(limits[prefix], 1.2e-7):
                    bad.append(f"{path.stem} {name}: {tensor} is off by {error:.1e}, allowed {limits[prefix]:.0e}")
            models += kind == "model"
            text = ", ".join(f"{prefix} {error:.1e} of {limits[prefix]:.0e}" for prefix, error in worst.items())
            print(f"{path.stem} {name}: {len(found)} tensors, worst {text}", flush=True)
    assert models, "there is no golden model in tests/golden"
    with torch.device("meta"):
        largest = DiffuSsm(Shape())
    count = sum(p.numel() for p in largest.parameters())
    assert count == 673_088_272 and round(largest.shape.gflops_per_image(), 1) == 295.7, "not the trainer's DiffuSSM-XL"
    if bad:
        sys.exit("\n".join(bad[:10] + [f"{len(bad)} tensors are off"]))


def kind_of(path):
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return file.metadata()["kind"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet256-xl", help="a file of trainer/configs")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value of its [model]")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--precision", choices=["bf16", "f32"], default="bf16")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--mode", default="default", help="of torch.compile, as max-autotune")
    parser.add_argument("--factored", action="store_true", help="kernels by a product of two factors")
    parser.add_argument("--recompute", action="store_true", help="activations of blocks are computed again in the backward")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help="compare with tests/golden, and time nothing")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU; --device cpu runs anywhere, and --check needs none")
    if args.check:
        check(args, device)
        return
    try:
        measure(args, Shape.of_config(args.config, args.set), device)
    except torch.cuda.OutOfMemoryError:
        sys.exit(f"the GPU's memory does not hold batch {args.batch}: "
                 f"try --batch {max(args.batch // 2, 1)}, --recompute or --factored")


if __name__ == "__main__":
    main()
