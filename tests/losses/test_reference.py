"""The papers' whole losses, put together from our functions, against the numbers of tests/reference."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from skinkd.batch import Batch
from skinkd.losses.feature import attention_map_distance, channel_relation
from skinkd.losses.logit import class_temperature_kl, kl_divergence, rectify, soft_cross_entropy
from skinkd.losses.relational import rkd_angle, rkd_distance
from skinkd.losses.rotation import keep_mask, rotated_index, rotation_similarity
from skinkd.methods.mskd_teacher import MSKDTeacher
from skinkd.models.hybrid import HybridFeatures, HybridTeacher

TSSKD = [f"tsskd_{classes}classes_seed{seed}" for classes in (2, 7, 8) for seed in (0, 1, 2)]
TSSKD_SETTINGS = [(4, 0.1), (4, 1), (4, 0.5), (2, 2), (8, 0.25)]


@pytest.mark.parametrize("name", ["swskd_T1_seed1", "swskd_T3_seed0"])
def test_swskd(reference, match, match_gradient, name):
    data = reference(name)
    target, temperature = data["target"], data["temperature"].item()
    logits = data["stage_logits"].clone().requires_grad_()
    features = data["stage_features"].clone().requires_grad_()
    attention = data["stage_attention"].clone().requires_grad_()
    stages = range(len(logits))

    rectified = [rectify(logits[k], target, mode="swap") for k in stages]
    ce = torch.stack([F.cross_entropy(logits[k], target) for k in stages])
    logit_steps = [kl_divergence(logits[k], rectified[k + 1], temperature=temperature) for k in stages[:-1]]
    feature_steps = [attention_map_distance(features[k], features[k + 1] * attention[k + 1]) for k in stages[:-1]]
    match(torch.stack(rectified), data["rectified_logits"])
    match(ce, data["ce"])
    match(torch.stack(logit_steps), data["logit_steps"])
    match(torch.stack(feature_steps), data["feature_steps"])
    total = ce.sum() + data["weight_logit"] * sum(logit_steps) + data["weight_feature"] * sum(feature_steps)
    match(total, data["total"])

    total.backward()
    match_gradient(logits, data["grad_stage_logits"])
    match_gradient(features, data["grad_stage_features"])
    # the corrected features are targets: the attention has no gradient from them
    assert attention.grad is None
    assert not data["grad_stage_attention"].any()


@pytest.mark.parametrize("name", TSSKD)
@pytest.mark.parametrize(("temperature", "ratio"), TSSKD_SETTINGS)
def test_tsskd(reference, match, match_gradient, name, temperature, ratio):
    data = reference(name)
    logits = data["student_logits"].clone().requires_grad_()
    loss = class_temperature_kl(logits, data["teacher_logits"], data["target"], temperature=temperature, ratio=ratio)
    match(loss, data[f"loss_T{temperature}_ratio{ratio}"])
    loss.backward()
    match_gradient(logits, data[f"grad_T{temperature}_ratio{ratio}"])


@pytest.mark.parametrize("name", TSSKD)
def test_tsskd_plain_two_view_kd(reference, match, name):
    data = reference(name)
    match(kl_divergence(data["student_logits"], data["teacher_logits"], temperature=4), data["kd_T4"])


@pytest.mark.parametrize("name", ["ssdkd_default_seed0", "ssdkd_filtered_seed1"])
def test_ssdkd(reference, match, match_gradient, name):
    data = reference(name)
    leaves = {
        key: data[f"student_{key}"].clone().requires_grad_()
        for key in ("logits", "pooled", "feature_map", "projection")
    }
    logits, teacher_logits, target = leaves["logits"], data["teacher_logits"], data["target"]
    rotated = torch.arange(len(logits)) % 4 > 0

    ce = F.cross_entropy(logits[::4], target, data["class_weights"])
    kd = kl_divergence(logits[::4], teacher_logits[::4], temperature=data["temperature_kd"].item())

    keep_wrong = data["keep_wrong_rotated"].item()
    kept = keep_mask(teacher_logits[rotated], target.repeat_interleave(3), keep_wrong=keep_wrong)
    assert kept.nonzero().flatten().tolist() == data["kept_rotated"].tolist()
    kd_rotated = kl_divergence(
        logits[rotated],
        teacher_logits[rotated],
        temperature=data["temperature_rotated"].item(),
        sample_mask=kept,
    )

    similarity = rotation_similarity(leaves["projection"])
    teacher_similarity = rotation_similarity(data["teacher_projection"])
    kept = keep_mask(teacher_similarity, rotated_index(teacher_similarity), keep_wrong=data["keep_wrong_ss"].item())
    assert kept.nonzero().flatten().tolist() == data["kept_ss"].tolist()
    ss = kl_divergence(similarity, teacher_similarity, temperature=data["temperature_ss"].item(), sample_mask=kept)

    distance = rkd_distance(leaves["pooled"], data["teacher_pooled"])
    angle = rkd_angle(leaves["pooled"], data["teacher_pooled"])
    channel = channel_relation(leaves["feature_map"], data["teacher_feature_map"])
    relational = data["weight_distance"] * distance + data["weight_angle"] * angle + data["weight_channel"] * channel
    terms = {"ce": ce, "kd": kd, "kd_rotated": kd_rotated, "ss": ss, "relational": relational}
    total = (
        data["weight_ce"] * ce
        + data["weight_kd"] * kd
        + data["weight_rotated"] * kd_rotated
        + data["weight_ss"] * ss
        + data["weight_relational"] * relational
    )
    parts = {"rkd_distance": distance, "rkd_angle": angle, "channel_relation": channel, "total": total}
    for key, value in (terms | parts).items():
        match(value, data[key])
    total.backward()
    for key, leaf in leaves.items():
        match_gradient(leaf, data[f"grad_student_{key}"])


@pytest.mark.parametrize("seed", [0, 2])
def test_ssdkd_baselines(reference, match, seed):
    data = reference(f"ssdkd_baselines_seed{seed}")
    ce = F.cross_entropy(data["student_logits"], data["target"])
    kd = kl_divergence(data["student_logits"], data["teacher_logits"], temperature=5)
    distance = rkd_distance(data["student_pooled"], data["teacher_pooled"])
    angle = rkd_angle(data["student_pooled"], data["teacher_pooled"])
    channel = channel_relation(data["student_feature_map"], data["teacher_feature_map"])
    match(0.5 * ce + 0.5 * kd, data["blkd_total"])
    match(3 * ce + 25 * distance + 50 * angle, data["rkd_total"])
    match(0.5 * ce + 0.5 * kd + 25 * distance + 50 * angle + 1000 * channel, data["d_kd_total"])


@pytest.mark.parametrize("name", [f"mskd_T{temperature}_seed{seed}" for temperature in (3, 10) for seed in range(3)])
def test_mskd_student(reference, match, match_gradient, name):
    data = reference(name)
    exit1, exit2, logits = (
        data[f"student_{key}"].clone().requires_grad_() for key in ("exit1_logits", "exit2_logits", "logits")
    )
    intermediate = 0.5 * (
        soft_cross_entropy(exit1, data["teacher_attention_branch_logits"])
        + soft_cross_entropy(exit2, data["teacher_conv_branch_logits"])
    )
    logit = kl_divergence(logits, data["teacher_logits"], temperature=data["temperature"].item())
    classification = F.cross_entropy(logits, data["target"])
    total = data["alpha"] * intermediate + data["beta"] * logit + data["gamma"] * classification
    for key, value in {
        "intermediate": intermediate,
        "logit": logit,
        "classification": classification,
        "total": total,
    }.items():
        match(value, data[key])
    total.backward()
    match_gradient(exit1, data["grad_exit1"])
    match_gradient(exit2, data["grad_exit2"])
    match_gradient(logits, data["grad_student"])


def hybrid_teacher() -> HybridTeacher:
    """A teacher of two exits a branch, as in the files, of seven classes."""
    return HybridTeacher(
        name="mskd_teacher",
        num_classes=7,
        image_size=16,
        attention_branch="small_vit",
        conv_branch="convmixer",
        small_vit={
            "patch_size": 8,
            "depth": 2,
            "embed_dim": 8,
            "num_heads": 2,
            "class_token": False,
            "global_pool": "avg",
        },
        convmixer={"patch_size": 4, "depth": 2, "dim": 8, "kernel_size": 3},
        pretrained=False,
        weights=None,
        fusion_width=8,
        drop_rate=0.0,
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mskd_teacher(reference, match, seed):
    """The method's own step, with the file's logits for those of its network; the file has the total alone."""
    data = reference(f"mskd_teacher_seed{seed}")
    exits = {
        f"{kind}_{k}": logits
        for kind in ("attention_exit", "conv_exit")
        for k, logits in enumerate(data[f"{kind}s"], start=1)
    }
    exits |= {kind: data[kind] for kind in ("attention_branch", "conv_branch")}
    network = hybrid_teacher()
    assert set(network.exit_names) == set(exits)
    network.features = lambda image: HybridFeatures(stages=(), pooled=image, logits=data["combined"], exits=exits)
    method = MSKDTeacher(
        network,
        criterion=F.cross_entropy,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        schedule=lambda optimizer, epochs, steps_per_epoch: {},
        loss_weights={"attention_exits": 0.5, "conv_exits": 0.5, "branches": 0.3, "combined": 0.4},
        warmup_epochs=0,
    )
    logged = {}
    method._trainer = SimpleNamespace(global_step=0, log_every_n_steps=1)
    method.log_dict = logged.update
    method.log = lambda name, value, **_: logged.update({name: value})
    size = len(data["target"])
    batch = Batch(image=torch.zeros(size, 1, 3, 16, 16), label=data["target"], index=torch.arange(size))
    match(method.training_step(batch, 0), data["total"])

    def ce(*several):
        rows = [(z.logsumexp(dim=1) - z[torch.arange(size), data["target"]]).sum() / size for z in several]
        return torch.stack(rows)

    expected = {
        "train/attention_exits": ce(*data["attention_exits"]).mean(),
        "train/conv_exits": ce(*data["conv_exits"]).mean(),
        "train/branches": ce(data["attention_branch"], data["conv_branch"]).sum(),
        "train/combined": ce(data["combined"]).sum(),
        "train/loss": data["total"],
    }
    assert set(logged) == set(expected)
    for key, value in expected.items():
        match(logged[key], value)
