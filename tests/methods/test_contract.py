"""What every method owes, for each file of conf/method."""

import copy
import math
from functools import cache
from pathlib import Path

import pytest
import skinkd.conf
import torch
from hydra.utils import get_class
from torch.nn import functional as F
from world import CLASSES, config_of, make_batch, make_method, one_step

from skinkd.build.objects import build_mix
from skinkd.errors import UserError
from skinkd.methods.base import Method

METHODS = sorted(path.stem for path in (Path(skinkd.conf.__file__).parent / "method").glob("*.yaml"))
HARD: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("supervised", "kd", "byot", "fitnet", "at", "rkd", "d_kd", "dist", "reviewkd"), ()),
    **dict.fromkeys(("mskd", "mskd_teacher", "ssdkd_projection", "tf_kd_self"), ()),
    "swskd": ("lrb",),
    "tsskd": ("kd",),
    "dkd": ("dkd",),
    "ssdkd": ("kd_rotated",),
    "tf_kd": ("virtual",),
    "cs_kd": ("cls",),
    "ps_kd": ("past",),
    "dlb": ("last",),
    "crd": ("crd",),
}
"""The terms of each method of the papers that need one class for each image."""
NO_RAMP = "method.warmup_epochs=0"
TAUGHT = [name for name in METHODS if "teacher" in config_of(name)["method"]]

every_method = pytest.mark.parametrize("name", METHODS)


def hard_terms(name: str) -> tuple[str, ...]:
    """Of a method that ``HARD`` does not know, what its class says."""
    method = get_class(config_of(name)["method"]["_target_"])
    return HARD.get(name, method.hard_label_terms)


every_taught = pytest.mark.parametrize("name", TAUGHT)


Step = tuple[Method, dict[str, float], dict[str, torch.Tensor | None]]


@cache
def plain_step(name: str) -> Step:
    """A method of the published weights without a ramp, with the terms and gradients of a step; for reading only."""
    method = make_method(name, NO_RAMP)
    torch.manual_seed(0)
    return method, *one_step(method, make_batch(method))


@every_method
def test_the_terms_of_a_step_are_the_weighted_ones_and_add_up(name: str) -> None:
    method, terms, _ = plain_step(name)
    assert set(method.loss_weights) == set(method.term_names)
    assert set(method.distillation_terms) | set(method.hard_label_terms) <= set(method.term_names)
    loss = terms["loss"]
    assert math.isfinite(loss)
    terms = {term: value for term, value in terms.items() if term != "loss"}
    active = {term for term, weight in method.loss_weights.items() if weight > 0}
    assert set(terms) == active
    assert all(math.isfinite(value) for value in terms.values())
    assert loss == pytest.approx(sum(method.loss_weights[term] * terms[term] for term in terms), rel=1e-5)


@every_method
def test_every_trainable_parameter_gets_a_gradient(name: str) -> None:
    _, _, gradients = plain_step(name)
    assert gradients
    without = [key for key, gradient in gradients.items() if gradient is None]
    assert not without
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)


@every_method
def test_each_term_can_be_switched_off_and_leaves_no_idle_parameter(name: str) -> None:
    weights = config_of(name)["method"]["loss_weights"]
    for term in weights:
        if len(weights) == 1 or term == "ce":
            continue
        method = make_method(name, f"method.loss_weights.{term}=0", NO_RAMP)
        terms, gradients = one_step(method, make_batch(method, size=2))
        assert term not in terms
        assert [key for key, gradient in gradients.items() if gradient is None] == []


@every_method
def test_small_batches_and_absent_classes(name: str) -> None:
    """One step after another: a value that is not finite stays in the weights, and so in the terms and gradients."""
    method = make_method(name, "class_weights=inverse", NO_RAMP)
    labels = ([0, 1], [2, 2])
    terms, gradients = one_step(method, *(make_batch(method, size=len(label), label=label) for label in labels))
    assert all(torch.tensor(value).isfinite() for value in terms.values())
    assert all(gradient.isfinite().all() for gradient in gradients.values() if gradient is not None)


@every_method
def test_bf16(name: str) -> None:
    """Terms come out close to those in float32: the networks' passes are rounded, the losses are not."""
    _, exact, _ = plain_step(name)
    method = make_method(name, NO_RAMP)
    rounded, gradients = one_step(method, make_batch(method), precision="bf16-mixed")
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.1)
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())


@every_method
def test_the_same_seed_gives_the_same_step(name: str) -> None:
    method = make_method(name, NO_RAMP)
    torch.manual_seed(0)
    terms, gradients = one_step(method, make_batch(method))
    _, first, first_gradients = plain_step(name)
    assert terms == first
    assert all(torch.equal(gradient, first_gradients[key]) for key, gradient in gradients.items())


@every_method
def test_a_checkpoint_holds_what_is_trained_and_no_teacher(name: str) -> None:
    method = make_method(name)
    names = {key.split(".")[0] for key in method.state_dict()}
    assert "network" in names
    assert "teacher" not in names
    other = make_method(name, "seed=1")
    other.load_state_dict(method.state_dict())
    image = make_batch(method).image[:, 0]
    assert torch.equal(method.eval()(image), other.eval()(image))
    assert method(image).shape == (4, CLASSES)


def test_an_unknown_or_negative_weight_is_refused() -> None:
    """By what all methods share (test_base.py), here of a configuration."""
    with pytest.raises(Exception, match="negative"):
        make_method("kd", "method.loss_weights.kd=-1")
    with pytest.raises(Exception, match="nonsense is not a loss term"):
        make_method("kd", "+method.loss_weights.nonsense=1")


@every_method
def test_shares_of_one_class_are_hard_labels(name: str) -> None:
    """The terms that take mixed batches say of an unmixed batch what they say of its labels."""
    settings = ["class_weights=inverse", NO_RAMP, *(f"method.loss_weights.{term}=0" for term in hard_terms(name))]
    method, other = make_method(name, *settings), make_method(name, *settings)
    batch = make_batch(method)
    torch.manual_seed(0)
    hard, _ = one_step(method, batch)
    torch.manual_seed(0)
    soft, _ = one_step(other, batch._replace(label=F.one_hot(batch.label, CLASSES).float()))
    assert soft == pytest.approx(hard, rel=1e-5)


@every_method
def test_a_mixed_batch_is_taken_or_refused_in_one_sentence(name: str) -> None:
    config = config_of(name, "augment.mix=cutmix")
    method = get_class(config["method"]["_target_"])
    if hard := hard_terms(name):
        says = rf"augment.mix=cutmix .* the term {hard[0]} of method={name} needs one class .*{hard[0]}=0$"
        with pytest.raises(UserError, match=says):
            build_mix(config, method, num_classes=CLASSES)
    config["method"]["loss_weights"] |= dict.fromkeys(hard, 0)
    assert build_mix(config, method, num_classes=CLASSES) is not None
    assert build_mix(config_of(name), method, num_classes=CLASSES) is None


@every_taught
def test_a_teacher_in_bf16_and_a_student_in_float32(name: str) -> None:
    _, exact, _ = plain_step(name)
    method = make_method(name, NO_RAMP)
    method.teacher.bf16 = True
    rounded, gradients = one_step(method, make_batch(method))
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.1)
    assert rounded != exact
    assert all(gradient is not None and gradient.dtype == torch.float32 for gradient in gradients.values())


@every_taught
def test_each_term_that_reaches_the_logits_is_enough(name: str) -> None:
    method, _, _ = plain_step(name)
    off = {term: f"method.loss_weights.{term}=0" for term in method.term_names}
    for term in method.logit_terms or off:
        others = [text for other, text in off.items() if other != term]
        method = make_method(name, *others, f"method.loss_weights.{term}=1", NO_RAMP)
        terms, gradients = one_step(method, make_batch(method, size=2))
        assert set(terms) == {term, "loss"}
        assert [key for key, gradient in gradients.items() if gradient is None] == []


@every_taught
def test_without_a_term_that_reaches_the_logits_it_is_refused(name: str) -> None:
    needed = plain_step(name)[0].logit_terms
    if not needed:
        pytest.skip(f"every term of {name} trains what it is for")
    off = [f"method.loss_weights.{term}=0" for term in needed]
    with pytest.raises(UserError, match="classifier untrained") as refused:
        make_method(name, *off)
    assert f"set method.loss_weights.{needed[0]} above 0" in str(refused.value)


@every_taught
def test_the_teacher_stays_as_it_is(name: str) -> None:
    method = make_method(name)
    teacher = method.teacher
    before = copy.deepcopy(teacher.network.state_dict())
    one_step(method, make_batch(method))
    method.train()
    after = teacher.network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module.training for module in teacher.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    own = {id(parameter) for parameter in method.parameters()}
    assert not own & {id(parameter) for parameter in teacher.parameters()}
    assert not any(module is teacher for module in method.modules())


LIMITED = ("temperature", "temperature_ss", "alpha", "stage", "keep_wrong_ss", "width", "negatives", "momentum")
LIMITS = [(name, key) for name in TAUGHT for key in LIMITED if key in config_of(name)["method"]]


def test_every_name_of_this_file_is_a_methods() -> None:
    """A method or setting that has been renamed would be tested no more."""
    assert set(HARD) <= set(METHODS)
    assert {key for _, key in LIMITS} == set(LIMITED)


@pytest.mark.parametrize(("name", "key"), LIMITS)
def test_values_out_of_range_are_refused(name: str, key: str) -> None:
    with pytest.raises(Exception) as refused:
        make_method(name, f"method.{key}=-1")
    cause = refused.value.__cause__ or refused.value
    assert isinstance(cause, UserError)
    assert f"method.{key}=-1" in str(cause)
