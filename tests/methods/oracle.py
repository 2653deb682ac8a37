"""The losses again, sample by sample in double precision, from the papers' formulae alone."""

import math
from itertools import combinations

import torch
from torch import Tensor


def softmax(row: list[float], temperature: float) -> list[float]:
    top = max(row)
    powers = [math.exp((value - top) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(logits: Tensor, label: Tensor) -> float:
    losses = [-math.log(softmax(row, 1)[index]) for row, index in zip(logits.tolist(), label.tolist(), strict=True)]
    return sum(losses) / len(losses)


def kl(teacher: Tensor, student: Tensor, temperature: float, kept: list[int] | None = None) -> float:
    rows = list(zip(teacher.tolist(), student.tolist(), strict=True))
    kept = list(range(len(rows))) if kept is None else kept
    total = 0.0
    for index in kept:
        p, q = (softmax(row, temperature) for row in rows[index])
        total += sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / max(len(kept), 1)


def smooth_l1(difference: Tensor) -> Tensor:
    size = difference.abs()
    return torch.where(size < 1, size**2 / 2, size - 0.5).mean()


def distances(features: Tensor) -> Tensor:
    features = features.double()
    found = torch.zeros(len(features), len(features), dtype=torch.float64)
    for i, j in combinations(range(len(features)), 2):
        found[i, j] = found[j, i] = (features[i] - features[j]).norm()
    return found / found[found > 0].mean()


def rkd_distance(student: Tensor, teacher: Tensor) -> float:
    return smooth_l1(distances(student) - distances(teacher)).item()


def angles(features: Tensor) -> Tensor:
    features = features.double()
    n = len(features)
    found = torch.zeros(n, n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if i not in (j, k):
                    a, b = features[j] - features[i], features[k] - features[i]
                    found[i, j, k] = a @ b / (a.norm() * b.norm())
    return found


def rkd_angle(student: Tensor, teacher: Tensor) -> float:
    return smooth_l1(angles(student) - angles(teacher)).item()


def channel_relation(student: Tensor, teacher: Tensor) -> float:
    squares = []
    for ours, theirs in zip(student.double(), teacher.double(), strict=True):
        grams = [map.flatten(1) @ map.flatten(1).T / map.numel() for map in (ours, theirs)]
        squares.append((grams[0] - grams[1]) ** 2)
    return torch.stack(squares).mean().sqrt().item()
