"""The losses of the further rows against the authors' public code, whose numbers are in tests/reference."""

import pytest
import torch
import torch.nn.functional as F

from skinkd.losses.classification import shared_cross_entropy
from skinkd.losses.contrastive import contrast_scores, noise_contrastive_loss
from skinkd.losses.feature import hierarchical_context_loss
from skinkd.losses.logit import decoupled_kd, kl_divergence, standardize, virtual_teacher_kl
from skinkd.losses.relational import inter_class_relation, intra_class_relation
from skinkd.models.review import Review

both = pytest.mark.parametrize("seed", [0, 1])


@both
@pytest.mark.parametrize("setting", [0, 1, 2])
def test_tf_kd_regularisation(reference, match, match_gradient, seed, setting):
    data = reference(f"tfkd_seed{seed}")
    logits, target = data["logits"].clone().requires_grad_(), data["target"]
    alpha, classes = data[f"alpha_{setting}"], logits.shape[1]
    virtual = virtual_teacher_kl(
        logits, target, correct_probability=0.99, temperature=data[f"temperature_{setting}"].item()
    )
    # their divergence is a mean over all B·K elements
    total = (1 - alpha) * F.cross_entropy(logits, target) + alpha * data[f"multiplier_{setting}"] / classes * virtual
    match(total, data[f"total_{setting}"])
    total.backward()
    match_gradient(logits, data[f"grad_{setting}"])


@both
def test_tf_kd_self_training(reference, match, match_gradient, seed):
    data = reference(f"tfkd_seed{seed}")
    logits = data["logits"].clone().requires_grad_()
    kd = kl_divergence(logits, data["teacher_logits"], temperature=6)
    total = 0.05 * F.cross_entropy(logits, data["target"]) + 0.95 * 50 / logits.shape[1] * kd
    match(total, data["self_total"])
    total.backward()
    match_gradient(logits, data["self_grad"])


@both
@pytest.mark.parametrize("temperature", [1, 4])
def test_cs_kd(reference, match, match_gradient, seed, temperature):
    data = reference(f"cskd_seed{seed}")
    logits = data["logits"].clone().requires_grad_()
    total = F.cross_entropy(logits, data["target"]) + kl_divergence(
        logits, data["pair_logits"], temperature=temperature
    )
    match(total, data[f"total_T{temperature}"])
    total.backward()
    match_gradient(logits, data[f"grad_T{temperature}"])


@both
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_ps_kd(reference, match, match_gradient, seed, epoch):
    data = reference(f"pskd_seed{seed}")
    logits, target = data["logits"].clone().requires_grad_(), data["target"]
    past = data["past"] if epoch else F.one_hot(target, logits.shape[1]).double()
    share = data["alpha"] * (epoch + 1) / data["epochs"]
    soft = shared_cross_entropy(logits, past, weight=None, label_smoothing=0)
    total = (1 - share) * F.cross_entropy(logits, target) + share * soft
    match(total, data[f"total_{epoch}"])
    total.backward()
    match_gradient(logits, data[f"grad_{epoch}"])


@both
def test_dlb(reference, match, match_gradient, seed):
    data = reference(f"dlb_seed{seed}")
    logits, again = (data[name].clone().requires_grad_() for name in ("logits", "last_again"))
    labels = torch.cat([data["last_target"], data["target"]])
    ce = F.cross_entropy(torch.cat([again, logits]), labels)
    last = kl_divergence(again, data["last_logits"], temperature=data["temperature"].item())
    total = ce + data["alpha"] * last
    match(ce, data["ce"])
    match(last, data["last"])
    match(total, data["total"])
    total.backward()
    match_gradient(logits, data["grad"])
    match_gradient(again, data["grad_last"])


@both
@pytest.mark.parametrize("setting", [0, 1, 2])
def test_dist(reference, match, match_gradient, seed, setting):
    data = reference(f"dist_seed{seed}")
    logits, teacher = data["logits"].clone().requires_grad_(), data["teacher_logits"]
    temperature = data[f"tau_{setting}"].item()
    inter = inter_class_relation(logits, teacher, temperature=temperature)
    intra = intra_class_relation(logits, teacher, temperature=temperature)
    loss = data[f"beta_{setting}"] * inter + data[f"gamma_{setting}"] * intra
    match(loss, data[f"loss_{setting}"])
    loss.backward()
    match_gradient(logits, data[f"grad_{setting}"])


@both
@pytest.mark.parametrize("temperature", [2, 4])
def test_logit_standardization(reference, match, match_gradient, seed, temperature):
    data = reference(f"logit_standardization_seed{seed}")
    match(standardize(data["logits"]), data["normalised"])
    logits, teacher = data["logits"].clone().requires_grad_(), standardize(data["teacher_logits"])
    kd = kl_divergence(standardize(logits), teacher, temperature=temperature)
    match(kd, data[f"kd_T{temperature}"])
    kd.backward()
    match_gradient(logits, data[f"grad_kd_T{temperature}"])

    logits = data["logits"].clone().requires_grad_()
    weights = {name: data[name].item() for name in ("alpha", "beta")}
    dkd = decoupled_kd(standardize(logits), teacher, data["target"], **weights, temperature=temperature)
    match(dkd, data[f"dkd_T{temperature}"])
    dkd.backward()
    match_gradient(logits, data[f"grad_dkd_T{temperature}"])


@both
@pytest.mark.parametrize("step", [0, 1])
def test_crd(reference, match, match_gradient, seed, step):
    data = reference(f"crd_seed{seed}")
    student, images = data[f"student_{step}"].clone().requires_grad_(), data["images"].item()
    embed_t = data["embed_t_linear_weight"].clone().requires_grad_()
    v = F.normalize(F.linear(student, data["embed_s_linear_weight"], data["embed_s_linear_bias"]))
    v_t = F.normalize(F.linear(data[f"teacher_{step}"], embed_t, data["embed_t_linear_bias"]))
    before = ("contrast_memory_v2", "contrast_memory_v1") if step == 0 else ("memory_teacher_0", "memory_student_0")
    loss = torch.zeros((), dtype=torch.float64)
    for embedding, memory, constant in zip((v, v_t), before, data[f"constants_{step}"], strict=True):
        columns = data[f"columns_{step}"]
        rows = (columns[:, 0], columns[:, 1:])
        scores = contrast_scores(embedding, data[memory], *rows, temperature=data["temperature"].item())
        loss = loss + noise_contrastive_loss(*(one / constant for one in scores), images=images)
    match(loss, data[f"loss_{step}"])
    loss.backward()
    match_gradient(student, data[f"grad_student_{step}"])
    match_gradient(embed_t, data[f"grad_embed_{step}"])


@both
def test_reviewkd(reference, match, match_gradient, seed):
    data = reference(f"reviewkd_seed{seed}")
    students = [data[f"student_{k}"].clone().requires_grad_() for k in range(4)]
    teachers = [data[f"teacher_{k}"] for k in range(4)]
    review = Review([tuple(x.shape[1:]) for x in students], [tuple(x.shape[1:]) for x in teachers]).double()
    names = {"conv1": "enter", "conv2": "leave", "att_conv": "attention"}
    state = {}
    for key, value in data.items():
        if key.startswith("weight_"):
            place, part, rest = key.removeprefix("weight_").split("-", 2)
            state[f"fusions.{place}.{names[part]}.{rest.replace('-', '.')}"] = value
    found = review.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in found.missing_keys)
    outs = review(students)
    for k, out in enumerate(outs):
        match(out, data[f"out_{k}"])
    loss = sum(hierarchical_context_loss(out, teacher) for out, teacher in zip(outs, teachers, strict=True))
    match(loss, data["loss"])
    loss.backward()
    for k, student in enumerate(students):
        match_gradient(student, data[f"grad_{k}"])
