"""Steps of published repositories, run from the user's own checkouts; no line of them is part of this package.

Both repositories have their step in the middle of a function that also reads data and needs a GPU. So the parts that make up
the step are taken from the checkout's syntax tree and compiled as they are: definitions by their names, and the body of the
training loop. What cannot run on this machine is replaced around them: copies to a CUDA device, and pretrained weights.
"""

import ast
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

SSDKD = Path("experiment/isic/isic_ssd_kd.py")
TSSKD = Path("main.py")


def kind_of(checkout: Path) -> str:
    """Which repository a checkout is: ``ssdkd`` or ``tsskd``.

    Raises:
        ValueError: neither.
    """
    if (checkout / SSDKD).is_file():
        return "ssdkd"
    if (checkout / TSSKD).is_file() and (checkout / "Net.py").is_file():
        return "tsskd"
    raise ValueError(
        f"{checkout} has neither {SSDKD} (SSD-KD) nor {TSSKD} with Net.py (TSS-KD); give a checkout of one of them"
    )


def ssdkd_step(checkout: Path, *, image: Tensor, label: Tensor, classes: int) -> Callable[[], None]:
    """The step of Portable-Skin-Lesion-Diagnosis, ResNet-50 to MobileNetV2, optimizer included.

    Its class DR cannot be constructed as released; here it gets its attributes without its constructor.

    Args:
        checkout: of the repository.
        image: (B, 4, 3, H, W), normalised.
        label: int64 (B,).
        classes: K.

    Raises:
        ValueError: a part is not where the released code has it.
    """
    file = checkout / SSDKD
    tree = ast.parse(file.read_text())
    experiment = checkout / "experiment"
    with _importing(experiment / "my_models", experiment / "isic"), _no_pretrained_weights():
        from kd_losses import DR  # type: ignore[import-not-found]
        from my_model import ConvReg, get_activation_fn, set_model  # type: ignore[import-not-found]

        teacher, student = (set_model(name, classes, pretrained=False) for name in ("resnet-50", "mobilenet"))
    of_teacher, of_student = (get_activation_fn(name) for name in ("resnet-50", "mobilenet"))
    teacher.requires_grad_(False).eval()
    with torch.no_grad():
        sample = image.flatten(0, 1)[:2].cpu()
        found_t, found_s = of_teacher(teacher, sample, student=False), of_student(student, sample, student=False)
    parts = nn.ModuleList([student])
    heads = nn.ModuleList([teacher])
    for modules, found in ((parts, found_s), (heads, found_t)):
        width = found["avg_pool"].shape[-1]
        modules.append(nn.Sequential(nn.Linear(width, width), nn.ReLU(inplace=True), nn.Linear(width, width)))
    heads.requires_grad_(False)
    parts.append(ConvReg(found_s["feats_7x7"].shape, found_t["feats_7x7"].shape))
    parts.to(image.device).train()
    heads.to(image.device).eval()
    relation: Any = DR.__new__(DR)
    nn.Module.__init__(relation)
    numbers = _numbers(_function(tree, "main", file))
    settings = _numbers(_function(tree, "cnfg", file))
    relation.layers = {"_layer_s": settings["_layer_s"], "_layer_t": settings["_layer_t"]}
    relation.__dict__["module_list"] = parts
    relation.lambd_rkd, relation.lambd_crkd = settings["_lambd_drkd"], settings["_lambd_crkd"]
    relation.w_dist, relation.w_angle = 25.0, 50.0
    names: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "F": nn.functional,
        **numbers,
        **settings,
        "device": image.device,
        "model_s": student,
        "model_t": teacher,
        "feat_fn_s": of_student,
        "feat_fn_t": of_teacher,
        "trainable_list_s": parts,
        "trainable_list_t": heads,
        "loss_wce": nn.CrossEntropyLoss(),
        "loss_hr": relation,
        "optimizer": torch.optim.SGD(parts.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-3),
        "data_batch": (image, label, None, None),
    }
    _define(tree, ("AverageMeter", "accuracy"), names, file)
    records = [f"loss{k}_record" for k in range(1, 6)] + ["cls_acc_record", "ssp_acc_record"]
    names |= {record: names["AverageMeter"]() for record in records}
    body = _compiled(_training_loop(tree, file).body, file)

    def step() -> None:
        with _cuda_is(image.device), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(body, names)

    return step


def tsskd_step(checkout: Path, *, image: Tensor, label: Tensor, classes: int) -> Callable[[], None]:
    """The step of TSS-KD, ResNet-18 with the stem for small images, optimizer included.

    Args:
        checkout: of the repository.
        image: (B, 2, 3, H, W), normalised.
        label: int64 (B,).
        classes: K.

    Raises:
        ValueError: a part is not where the released code has it.
    """
    file = checkout / TSSKD
    tree, network_tree = ast.parse(file.read_text()), ast.parse((checkout / "Net.py").read_text())
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": nn.functional, "models": torchvision.models}
    _define(network_tree, ("Student_resnet18",), names, checkout / "Net.py")
    _define(tree, ("DKDLoss", "train"), names, file)
    with _no_pretrained_weights(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = names["Student_resnet18"](first_conv=False, class_num=classes).to(image.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    arguments = SimpleNamespace(lamda=1.0, batchSz=len(label))
    losses = nn.CrossEntropyLoss(), names["DKDLoss"](4.0, 0.1)

    class One(list[Any]):
        """A loader of one batch."""

        dataset = label

    loader = One([(list(image.unbind(1)), label)])
    schedule = SimpleNamespace(step=lambda: None)

    def step() -> None:
        with _cuda_is(image.device), redirect_stdout(StringIO()):
            names["train"](arguments, 1, network, loader, optimizer, *losses, schedule)

    return step


def _function(tree: ast.Module, name: str, file: Path) -> ast.FunctionDef:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return node
    raise ValueError(f"{file} has no function {name}, which the released code has; give a checkout of the release")


def _define(tree: ast.Module, wanted: tuple[str, ...], names: dict[str, Any], file: Path) -> None:
    """Run the definitions of functions and classes."""
    found = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in wanted]
    missing = set(wanted) - {node.name for node in found}
    if missing:
        raise ValueError(
            f"{file} does not define {', '.join(sorted(missing))}, as the released code does; give the release"
        )
    exec(_compiled(found, file), names)


def _training_loop(tree: ast.Module, file: Path) -> ast.For:
    """The loop over batches that trains the student: the last over ``train_data_loader`` that has an optimizer's step."""
    loops = [
        node
        for node in ast.walk(_function(tree, "main", file))
        if isinstance(node, ast.For)
        and ast.unparse(node.iter) == "train_data_loader"
        and any(ast.unparse(line) == "optimizer.step()" for line in node.body)
    ]
    if not loops:
        raise ValueError(
            f"{file} has no loop over train_data_loader with optimizer.step(); give a checkout of the release"
        )
    return loops[-1]


def _numbers(function: ast.FunctionDef) -> dict[str, Any]:
    """The names to which a function assigns a plain number, text or truth value."""
    return {
        node.targets[0].id: node.value.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


def _compiled(body: list[Any], file: Path) -> Any:
    return compile(ast.Module(body=body, type_ignores=[]), str(file), "exec")


@contextmanager
def _importing(*folders: Path) -> Iterator[None]:
    """Import from the checkout's folders, and forget its modules afterwards: their names are common words."""
    before, known = list(sys.path), set(sys.modules)
    sys.path[:0] = [str(folder) for folder in folders]
    try:
        yield
    finally:
        sys.path[:] = before
        for name in set(sys.modules) - known:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if any(Path(file).is_relative_to(folder) for folder in folders):
                del sys.modules[name]


@contextmanager
def _no_pretrained_weights() -> Iterator[None]:
    """Let torchvision's networks start at random, whatever is asked for."""
    replaced = {name: getattr(torchvision.models, name) for name in ("resnet18", "resnet50", "mobilenet_v2")}
    for name, build in replaced.items():
        setattr(torchvision.models, name, lambda build=build, **_: build(weights=None))
    try:
        yield
    finally:
        for name, build in replaced.items():
            setattr(torchvision.models, name, build)


@contextmanager
def _cuda_is(device: torch.device) -> Iterator[None]:
    """Let ``tensor.cuda()`` go to the device of the benchmark."""
    original: Mapping[str, Any] = {"cuda": Tensor.cuda}
    Tensor.cuda = lambda self, *_, **__: self.to(device)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        with suppress(AttributeError):
            Tensor.cuda = original["cuda"]  # type: ignore[method-assign]
