"""Each method's step on a tiny network against the paper's formula, computed again from the networks' outputs."""

import copy
import math

import oracle
import pytest
import torch
import torch.nn.functional as F
from world import make_batch, make_method, one_step, passes

from skinkd.errors import UserError

CLOSE = {"rel": 2e-4, "abs": 1e-6}


def check(terms: dict[str, float], expected: dict[str, float], weights: dict[str, float]) -> None:
    loss = terms.pop("loss")
    assert terms == {name: pytest.approx(value, **CLOSE) for name, value in expected.items()}
    assert loss == pytest.approx(sum(weights[name] * value for name, value in expected.items()), **CLOSE)


def test_kd() -> None:
    method = make_method("kd")
    batch = make_batch(method, size=6)
    student, teacher = passes(method, batch.image[:, 0])
    terms, _ = one_step(method, batch)
    expected = {
        "ce": oracle.cross_entropy(student.logits, batch.label),
        "kd": oracle.kl(teacher.logits, student.logits, 5),
    }
    check(terms, expected, {"ce": 0.5, "kd": 0.5})


def test_rkd() -> None:
    method = make_method("rkd")
    batch = make_batch(method, size=6)
    student, teacher = passes(method, batch.image[:, 0])
    terms, _ = one_step(method, batch)
    expected = {
        "ce": oracle.cross_entropy(student.logits, batch.label),
        "rkd_distance": oracle.rkd_distance(student.pooled, teacher.pooled),
        "rkd_angle": oracle.rkd_angle(student.pooled, teacher.pooled),
    }
    check(terms, expected, {"ce": 3, "rkd_distance": 25, "rkd_angle": 50})


def test_d_kd() -> None:
    method = make_method("d_kd")
    batch = make_batch(method, size=6)
    student, teacher = passes(method, batch.image[:, 0])
    with torch.no_grad():
        regressed = copy.deepcopy(method.regressor).train()(student.stages[-1])
    assert regressed.shape == teacher.stages[-1].shape
    terms, _ = one_step(method, batch)
    expected = {
        "ce": oracle.cross_entropy(student.logits, batch.label),
        "kd": oracle.kl(teacher.logits, student.logits, 5),
        "rkd_distance": oracle.rkd_distance(student.pooled, teacher.pooled),
        "rkd_angle": oracle.rkd_angle(student.pooled, teacher.pooled),
        "channel_relation": oracle.channel_relation(regressed, teacher.stages[-1]),
    }
    weights = {"ce": 0.5, "kd": 0.5, "rkd_distance": 25, "rkd_angle": 50, "channel_relation": 1000}
    check(terms, expected, weights)


def test_at_pairs_stages_from_the_last() -> None:
    method = make_method("at")
    batch = make_batch(method, size=3)
    student, teacher = passes(method, batch.image[:, 0])
    terms, _ = one_step(method, batch)
    total = 0.0
    for ours, theirs in zip(student.stages, teacher.stages, strict=True):
        assert ours.shape[2:] == theirs.shape[2:]
        squares = []
        for a, b in zip(ours.double(), theirs.double(), strict=True):
            maps = [(map**2).mean(dim=0).flatten() for map in (a, b)]
            squares.append((maps[0] / maps[0].norm() - maps[1] / maps[1].norm()) ** 2)
        total += torch.stack(squares).mean().item()
    expected = {"ce": oracle.cross_entropy(student.logits, batch.label), "at": total}
    check(terms, expected, {"ce": 1, "at": 1000})


@pytest.mark.parametrize("stage", [1, 2, 4])
def test_fitnet(stage: int) -> None:
    method = make_method("fitnet", f"method.stage={stage}")
    batch = make_batch(method, size=3)
    student, teacher = passes(method, batch.image[:, 0])
    with torch.no_grad():
        regressed = copy.deepcopy(method.regressor).train()(student.stages[stage - 1])
    terms, _ = one_step(method, batch)
    hint = ((regressed.double() - teacher.stages[stage - 1].double()) ** 2).mean().item()
    expected = {"ce": oracle.cross_entropy(student.logits, batch.label), "hint": hint}
    check(terms, expected, {"ce": 1, "hint": 100})


def test_dkd() -> None:
    method = make_method("dkd", "method.warmup_epochs=0")
    batch = make_batch(method, size=6)
    student, teacher = passes(method, batch.image[:, 0])
    terms, _ = one_step(method, batch)
    total = 0.0
    for z, t, y in zip(student.logits.tolist(), teacher.logits.tolist(), batch.label.tolist(), strict=True):
        q, p = oracle.softmax(z, 4), oracle.softmax(t, 4)
        tckd = p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        others = [j for j in range(len(z)) if j != y]
        nckd = sum(p[j] / (1 - p[y]) * math.log(p[j] / (1 - p[y]) / (q[j] / (1 - q[y]))) for j in others)
        total += 16 * (tckd + 8 * nckd)
    expected = {"ce": oracle.cross_entropy(student.logits, batch.label), "dkd": total / 6}
    check(terms, expected, {"ce": 1, "dkd": 1})


def test_byot() -> None:
    method = make_method("byot")
    batch = make_batch(method, size=4)
    twin = copy.deepcopy(method).train()
    with torch.no_grad():
        features = twin.network.features(batch.image[:, 0])
        outputs = [head(stage) for head, stage in zip(twin.heads, features.stages[:-1], strict=True)]
    terms, _ = one_step(method, batch)
    last = features.stages[-1].double()
    expected = {
        "ce": oracle.cross_entropy(features.logits, batch.label),
        "ce_heads": sum(oracle.cross_entropy(z, batch.label) for _, z in outputs),
        "kd": sum(oracle.kl(features.logits, z, 3) for _, z in outputs),
        "feature": sum(((map.double() - last) ** 2).mean().item() for map, _ in outputs),
    }
    check(terms, expected, {"ce": 1, "ce_heads": 0.9, "kd": 0.1, "feature": 1})
    assert len(outputs) == len(method.network.stage_shapes) - 1


def test_byot_teaches_the_heads_and_not_the_last_stage() -> None:
    """Without hard labels for it, the network's own classifier has nothing to learn from: it is the teacher."""
    method = make_method("byot", "method.loss_weights.ce=0", "method.loss_weights.ce_heads=0")
    _, gradients = one_step(method, make_batch(method))
    assert gradients["network.model.fc.weight"] is None
    assert gradients["heads.0.classifier.weight"] is not None


def test_ssdkd_projection() -> None:
    method = make_method("ssdkd_projection")
    batch = make_batch(method, size=5)
    with torch.no_grad():
        pooled = method.teacher.network.eval().features(batch.image.flatten(0, 1)).pooled
        projection = method.projector(pooled).double()
    terms, gradients = one_step(method, batch)
    losses = []
    for image in range(5):
        for turn in (1, 2, 3):
            row = projection[4 * image + turn]
            cosines = [F.cosine_similarity(row, projection[4 * other], dim=0).item() for other in range(5)]
            losses.append(-math.log(oracle.softmax(cosines, 1)[image]))
    check(terms, {"retrieval": sum(losses) / 15}, {"retrieval": 1})
    assert {name.split(".")[0] for name in gradients} == {"projector"}


def test_ssdkd_projection_deploys_the_teacher_unchanged() -> None:
    method = make_method("ssdkd_projection")
    batch = make_batch(method)
    one_step(method, batch)
    ours, theirs = method.network.state_dict(), method.teacher.network.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_ssdkd_projection_refuses_a_teacher_of_another_image_size() -> None:
    """The teacher's features at its size and the network's at the run's would be mixed in one head."""
    with pytest.raises(UserError, match="image size") as refused:
        make_method("ssdkd_projection", "+method.teacher.run.data.image_size=96")
    assert "+method.teacher.run.data.image_size=96" in str(refused.value)


def test_ssdkd_projection_tells_sizes_apart_that_give_stages_of_one_shape() -> None:
    method = make_method("ssdkd_projection", "+method.teacher.run.data.image_size=63")
    with pytest.raises(UserError, match=r"is 63, and this run's is 64; .*\+method\.teacher\.run\.data\.image_size=63"):
        one_step(method, make_batch(method))


@pytest.mark.parametrize(("keep_rotated", "keep_ss"), [(1.0, 0.75), (0.5, 0.25), (0.0, 0.0)])
def test_ssdkd(keep_rotated: float, keep_ss: float) -> None:
    method = make_method("ssdkd", f"method.keep_wrong_rotated={keep_rotated}", f"method.keep_wrong_ss={keep_ss}")
    batch = make_batch(method, size=3)
    student, teacher = passes(method, batch.image.flatten(0, 1))
    with torch.no_grad():
        regressed = copy.deepcopy(method.regressor).train()(student.stages[-1])
        projection = method.projector(student.pooled).double()
        teacher_projection = method.teacher.projector(teacher.pooled).double()
    terms, _ = one_step(method, batch)

    upright = [0, 4, 8]
    turned = [row for row in range(12) if row not in upright]
    z, t = student.logits, teacher.logits
    owner = [row // 4 for row in turned]

    def similarity(rows: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [torch.stack([F.cosine_similarity(rows[i], rows[j], dim=0) for j in upright]) for i in turned]
        )

    def kept(scores: torch.Tensor, truth: list[int], fraction: float) -> list[int]:
        order = scores.argsort(dim=1, descending=True, stable=True).tolist()
        rank = [row.index(index) for row, index in zip(order, truth, strict=True)]
        wrong = sorted((r, index) for index, r in enumerate(rank) if r > 0)
        least_wrong = [index for _, index in wrong[: int(fraction * len(wrong))]]
        return sorted([index for index, r in enumerate(rank) if r == 0] + least_wrong)

    ours, theirs = similarity(projection), similarity(teacher_projection)
    labels = [batch.label.tolist()[image] for image in owner]
    expected = {
        "ce": oracle.cross_entropy(z[upright], batch.label),
        "kd": oracle.kl(t[upright], z[upright], 4),
        "kd_rotated": oracle.kl(t[turned], z[turned], 4, kept(t[turned], labels, keep_rotated)),
        "ss": oracle.kl(theirs, ours, 0.5, kept(theirs, owner, keep_ss)),
        "rkd_distance": oracle.rkd_distance(student.pooled, teacher.pooled),
        "rkd_angle": oracle.rkd_angle(student.pooled, teacher.pooled),
        "channel_relation": oracle.channel_relation(regressed, teacher.stages[-1]),
    }
    weights = {
        "ce": 0.1,
        "kd": 0.9,
        "kd_rotated": 2.7,
        "ss": 10,
        "rkd_distance": 25,
        "rkd_angle": 50,
        "channel_relation": 1000,
    }
    check(terms, expected, weights)


def test_mskd() -> None:
    method = make_method("mskd", "backbone.drop_rate=0")
    batch = make_batch(method, size=6)
    student, teacher = passes(method, batch.image[:, 0])
    terms, _ = one_step(method, batch)

    def soft(targets: torch.Tensor, logits: torch.Tensor) -> float:
        rows = zip(targets.tolist(), logits.tolist(), strict=True)
        return -sum(
            sum(p * math.log(q) for p, q in zip(oracle.softmax(t, 1), oracle.softmax(z, 1), strict=True))
            for t, z in rows
        ) / len(logits)

    expected = {
        "intermediate": 0.5 * soft(teacher.exits["attention_branch"], student.exits["exit_1"])
        + 0.5 * soft(teacher.exits["conv_branch"], student.exits["exit_2"]),
        "logit": oracle.kl(teacher.logits, student.logits, 10),
        "classification": oracle.cross_entropy(student.logits, batch.label),
    }
    check(terms, expected, {"intermediate": 0.3, "logit": 0.3, "classification": 0.4})


@pytest.mark.parametrize("fusion", ["logits", "features"])
def test_single_stage_mskd_trains_no_exit_that_is_not_needed(fusion: str) -> None:
    method = make_method("mskd", "method.loss_weights.intermediate=0", f"backbone.fusion={fusion}")
    terms, gradients = one_step(method, make_batch(method))
    assert "intermediate" not in terms
    assert all(gradient is not None for gradient in gradients.values())
    assert any(name.startswith("network.exit_1") for name in gradients) == (fusion == "logits")


@pytest.mark.parametrize(
    ("fusion", "intermediate", "scored"),
    [("logits", 0, ["exit_1", "exit_2"]), ("features", 0, []), ("features", 0.3, ["exit_1", "exit_2"])],
)
def test_mskd_scores_the_exits_that_something_trains(fusion: str, intermediate: float, scored: list[str]) -> None:
    weights = f"method.loss_weights.intermediate={intermediate}"
    method = make_method("mskd", weights, f"backbone.fusion={fusion}").eval()
    with torch.no_grad():
        assert list(method.predict(make_batch(method).image[:, 0])) == ["", *scored]


@pytest.mark.parametrize("term", ["attention_exits", "conv_exits", "branches"])
def test_mskd_teacher_scores_the_exits_that_something_trains(term: str) -> None:
    method = make_method("mskd_teacher", f"method.loss_weights.{term}=0").eval()
    left = [name for name in method.network.exit_names if name not in method.members[term]]
    assert len(left) == 4
    with torch.no_grad():
        assert list(method.predict(make_batch(method).image[:, 0])) == ["", *left]


def test_mskd_teacher() -> None:
    method = make_method("mskd_teacher", "backbone.drop_rate=0")
    batch = make_batch(method, size=6)
    with torch.no_grad():
        found = copy.deepcopy(method.network).train().features(batch.image[:, 0])
    terms, _ = one_step(method, batch)
    ce = {name: oracle.cross_entropy(z, batch.label) for name, z in found.exits.items()}
    expected = {
        "attention_exits": (ce["attention_exit_1"] + ce["attention_exit_2"]) / 2,
        "conv_exits": (ce["conv_exit_1"] + ce["conv_exit_2"]) / 2,
        "branches": ce["attention_branch"] + ce["conv_branch"],
        "combined": oracle.cross_entropy(found.logits, batch.label),
    }
    check(terms, expected, {"attention_exits": 0.5, "conv_exits": 0.5, "branches": 0.3, "combined": 0.4})
