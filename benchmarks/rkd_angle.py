"""Time and peak memory of RKD's angle loss, ours against the N×N×C form of the published code, in one run.

``python benchmarks/rkd_angle.py`` prints both, forward and backward in float32 on the CPU, and their ratios.
"""

import argparse
import json
import subprocess
import sys


def measure(form: str, rows: int, channels: int, repeats: int) -> dict[str, float]:
    """Best time (ms), extra peak memory (MiB) and value of one form; needs a process of its own."""
    import resource
    import time

    import torch
    import torch.nn.functional as F
    from torch import Tensor

    from skinkd.losses.relational import rkd_angle

    def published(student: Tensor, teacher: Tensor) -> Tensor:
        def cosines(features: Tensor) -> Tensor:
            direction = F.normalize(features.unsqueeze(0) - features.unsqueeze(1), dim=2)
            return torch.bmm(direction, direction.transpose(1, 2))

        with torch.no_grad():
            target = cosines(teacher)
        return F.smooth_l1_loss(cosines(student), target)

    loss = {"ours": rkd_angle, "N×N×C": published}[form]
    torch.manual_seed(0)
    # a common mean, as pooled features after a ReLU have
    student, teacher = torch.rand(rows, channels, requires_grad=True), torch.rand(rows, channels)
    loss(student[:4], teacher[:4]).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(repeats):
        student.grad = None
        start = time.perf_counter()
        value = loss(student, teacher)
        value.backward()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"ms": min(seconds) * 1e3, "MiB": peak / 1024, "value": value.item()}


def main() -> None:
    """Measure each form in a fresh process and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--channels", type=int, nargs="+", default=[1280, 2048])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--form", choices=["ours", "N×N×C"], help="measure this one here, print JSON")
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options.form, options.rows, options.channels[0], options.repeats)))
        return
    print(f"{'N':>4} {'C':>5} {'form':>6} {'ms':>9} {'MiB':>8}  value")
    for channels in options.channels:
        results = {}
        for form in ("N×N×C", "ours"):
            arguments = ["--rows", str(options.rows), "--channels", str(channels), "--form", form]
            command = [sys.executable, __file__, *arguments, "--repeats", str(options.repeats)]
            # this process stays without torch: a child's peak memory starts at its parent's
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            row = results[form] = json.loads(output)
            head = f"{options.rows:4} {channels:5} {form:>6}"
            print(f"{head} {row['ms']:9.1f} {row['MiB']:8.1f}  {row['value']:.9g}")
        published, ours = results["N×N×C"], results["ours"]
        print(
            f"{'ratio':>17} {published['ms'] / ours['ms']:8.0f}x {published['MiB'] / ours['MiB']:7.0f}x"
            f"  difference {abs(published['value'] - ours['value']):.1g}"
        )


if __name__ == "__main__":
    main()
