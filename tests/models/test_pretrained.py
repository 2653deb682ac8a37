"""Starting weights: a download from a server of our own, files of both kinds, and what does not fit."""

import copy
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import train_process
from safetensors.torch import save_file
from torch import Tensor, nn

from skinkd.errors import UserError
from skinkd.models.backbone import Backbone
from skinkd.models.pretrained import create_network

ROOT = Path(__file__).parents[2]
HUB_FILE = "/timm/mobilenetv3_small_050.lamb_in1k/resolve/main/model.safetensors"


def build(name: str = "mobilenetv3_small_050", **changes: Any) -> Backbone:
    settings: dict[str, Any] = {
        "name": name, "num_classes": 7, "image_size": 64, "pretrained": False, "weights": None,
        "small_input": False, "head": "linear", "head_widths": (128, 128), "drop_rate": 0.0, "options": {},
    }  # fmt: skip
    torch.manual_seed(0)
    return Backbone(**(settings | changes))


def source(name: str = "mobilenetv3_small_050", num_classes: int = 7, **options: Any) -> nn.Module:
    """A timm network with other weights than ``build`` draws."""
    torch.manual_seed(99)
    return timm.create_model(name, num_classes=num_classes, **options)


def same(state: dict[str, Tensor], other: dict[str, Tensor], skip: tuple[str, ...] = ()) -> bool:
    keys = [key for key in state if not key.startswith(skip)]
    return all(torch.equal(state[key], other[key]) for key in keys)


# --- timm's download -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str]]]:
    """A server that answers as the hub does for one file; the list fills with what was asked."""
    file = tmp_path_factory.mktemp("hub") / "model.safetensors"
    save_file({k: v.contiguous() for k, v in source(num_classes=1000).state_dict().items()}, file)
    content, asked = file.read_bytes(), []

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bool) -> None:
            asked.append(f"{self.command} {self.path}")
            found = self.path == HUB_FILE
            self.send_response(200 if found else 404)
            if found:
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", '"skinkd-test"')
            else:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", str(len(content) if found else 0))
            self.end_headers()
            if found and body:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys, torch
for name in list(sys.modules):  # the hub's client reads the environment as it is imported
    if name.partition(".")[0] in ("huggingface_hub", "skinkd", "timm"):
        del sys.modules[name]
from skinkd.errors import UserError
from skinkd.models.backbone import Backbone
from skinkd.models.pretrained import create_network
try:
    network = Backbone(name="mobilenetv3_small_050", num_classes=7, image_size=64, pretrained=True,
                       weights=None, small_input=False, head="linear", head_widths=(128, 128), drop_rate=0.0,
                       options={})
    torch.save(network.model.state_dict(), sys.argv[1])
    print(json.dumps(None))
except UserError as error:
    print(json.dumps(str(error)))
"""


def pretrained(endpoint: str, home: Path, offline: bool = False) -> tuple[str | None, dict[str, Tensor] | None, float]:
    """A build with pretrained=True in a process of its own: its UserError, its weights, its seconds."""
    out = home / "state.pth"
    out.unlink(missing_ok=True)
    environment = {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "no_proxy": "*", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    script = home / "script.py"
    script.write_text(SCRIPT)
    start = time.monotonic()
    done = train_process.run([str(out)], folder=home, module=str(script), env=environment)
    assert done.code == 0, done.err
    message = json.loads(done.out.splitlines()[-1])
    return message, torch.load(out) if out.exists() else None, time.monotonic() - start


def test_download_then_cache(hub: tuple[str, list[str]], tmp_path: Path) -> None:
    endpoint, asked = hub
    message, state, _ = pretrained(endpoint, tmp_path)
    assert message is None and state is not None
    assert f"GET {HUB_FILE}" in asked
    expected = source(num_classes=1000).state_dict()
    assert state["classifier.weight"].shape[0] == 7
    assert same(state, expected, skip=("classifier",))
    # the same again with the server out of reach, from timm's cache
    message, again, _ = pretrained("http://127.0.0.1:9", tmp_path)
    assert message is None and again is not None
    assert same(again, expected, skip=("classifier",))


def test_no_network_and_no_cache(tmp_path: Path) -> None:
    message, state, seconds = pretrained("http://127.0.0.1:9", tmp_path)
    assert state is None and message is not None
    assert message.startswith("the pretrained weights of mobilenetv3_small_050 cannot be fetched (")
    assert "backbone.pretrained=false" in message and "backbone.weights=<file>" in message
    assert seconds < 40  # the hub's own client alone waits through its retries for longer


def test_a_network_without_pretrained_weights() -> None:
    with pytest.raises(UserError, match=r"pretrained weights of resnet14t\.untrained|no weights"):
        build("resnet14t.untrained", pretrained=True)
    # a small one: the network is built before its weights are asked for
    untrained = next(name for name in timm.list_models("ghostnet_*") if not timm.list_pretrained(f"{name}.*"))
    with pytest.raises(UserError, match=r"cannot be fetched .*backbone.pretrained=false"):
        build(untrained, pretrained=True)


def test_a_bad_size_is_told_before_anything_is_downloaded() -> None:
    with pytest.raises(UserError, match="image_size=8"):
        build("resnet18", image_size=8, pretrained=True)


# --- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pth", "safetensors", "wrapped", "module"])
def test_a_state_dict_in_timms_naming(kind: str, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in source().state_dict().items()}
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, file)
    elif kind == "wrapped":
        torch.save({"epoch": 3, "state_dict": state}, file)
    elif kind == "module":
        torch.save({f"module.{key}": value for key, value in state.items()}, file)
    else:
        torch.save(state, file)
    network = build(weights=str(file), pretrained=True)  # a file wins: nothing is fetched
    assert same(network.model.state_dict(), state)


def test_the_network_of_a_run_without_its_training_heads(tmp_path: Path) -> None:
    run = build(head="mlp")
    state = {f"network.{key}": value + 1 for key, value in run.state_dict().items()}
    extra = {"heads.0.weight": torch.zeros(2), "teacher.conv.weight": torch.zeros(2)}
    torch.save({"state_dict": state | extra, "epoch": 1, "callbacks": {"a": 1.0}}, tmp_path / "best.ckpt")
    network = build(head="mlp", weights=str(tmp_path / "best.ckpt"))
    assert same(network.state_dict(), {key[len("network.") :]: value for key, value in state.items()})


@pytest.mark.parametrize("classes", [1000, 2])
def test_a_classifier_of_another_shape_stays_random(
    classes: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = source(num_classes=classes).state_dict()
    torch.save(state, tmp_path / "a.pth")
    network = build(weights=str(tmp_path / "a.pth"))
    assert same(network.model.state_dict(), state, skip=("classifier",))
    fresh = build().model.get_classifier()
    assert torch.equal(network.model.get_classifier().weight, fresh.weight)
    assert torch.equal(network.model.get_classifier().bias, fresh.bias)
    assert "model.classifier." in caplog.text


def test_a_file_without_a_classifier(tmp_path: Path) -> None:
    state = {key: value for key, value in source().state_dict().items() if not key.startswith("classifier")}
    torch.save(state, tmp_path / "a.pth")
    assert same(state, build(weights=str(tmp_path / "a.pth")).model.state_dict())


def test_a_head_is_taken_whole_or_not_at_all(tmp_path: Path) -> None:
    # seven classes to nine: the first layers of the head would fit, the last would not
    run = build(head="mlp")
    with torch.no_grad():
        for parameter in run.head.parameters():
            parameter.fill_(0.5)
    torch.save({f"network.{k}": v for k, v in run.state_dict().items()}, tmp_path / "a.ckpt")
    network = build(head="mlp", num_classes=9, weights=str(tmp_path / "a.ckpt"))
    assert not (network.head[0].weight == 0.5).any()
    assert same(network.model.state_dict(), run.model.state_dict())


def test_linear_and_mlp_runs_exchange_their_networks(tmp_path: Path) -> None:
    for head, other in (("linear", "mlp"), ("mlp", "linear")):
        torch.manual_seed(5)
        run = build(head=head)
        nn.init.normal_(run.model.conv_stem.weight)
        torch.save({f"network.{k}": v for k, v in run.state_dict().items()}, tmp_path / "a.ckpt")
        network = build(head=other, weights=str(tmp_path / "a.ckpt"))
        assert torch.equal(network.model.conv_stem.weight, run.model.conv_stem.weight)


@pytest.mark.parametrize("as_run", [False, True])
def test_position_embeddings_of_another_image_size_are_resampled(as_run: bool, tmp_path: Path) -> None:
    state = source("vit_tiny_patch16_224", img_size=96).state_dict()
    prefix = "network.model." if as_run else ""
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / "a.pth")
    network = build("vit_tiny_patch16_224", weights=str(tmp_path / "a.pth"))
    own = network.model.state_dict()
    assert own["pos_embed"].shape == (1, 17, 192)
    assert torch.equal(own["pos_embed"][:, 0], state["pos_embed"][:, 0])  # the class token has no place
    assert torch.allclose(own["pos_embed"].mean(), state["pos_embed"].mean(), atol=2e-3)
    assert same({key: value for key, value in own.items() if key != "pos_embed"}, state)


def test_small_input_keeps_all_but_a_larger_stem(tmp_path: Path) -> None:
    state = source("resnet18").state_dict()
    torch.save(state, tmp_path / "a.pth")
    network = build("resnet18", small_input=True, weights=str(tmp_path / "a.pth"))
    own = network.model.state_dict()
    assert own["conv1.weight"].shape == (64, 3, 3, 3)
    assert same({key: value for key, value in own.items() if key != "conv1.weight"}, state)
    stem = source().state_dict()
    torch.save(stem, tmp_path / "b.pth")
    network = build(small_input=True, weights=str(tmp_path / "b.pth"))  # a 3×3 stem already: kept
    assert torch.equal(network.model.conv_stem.weight, stem["conv_stem.weight"])
    torch.save({f"network.{k}": v for k, v in network.state_dict().items()}, tmp_path / "c.ckpt")
    again = build(small_input=True, weights=str(tmp_path / "c.ckpt"))
    assert same(network.state_dict(), again.state_dict())


def test_files_older_than_the_batch_counter_are_whole(tmp_path: Path) -> None:
    state = {k: v for k, v in source().state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "a.pth")
    assert same(state, build(weights=str(tmp_path / "a.pth")).model.state_dict())


# --- files that do not fit -------------------------------------------------------------------------


def spoilt(kind: str, file: Path) -> str:
    """Write a file with one thing wrong; return what the sentence must say."""
    state = source().state_dict()
    if kind == "missing":
        del state["conv_stem.weight"]
        said = "no model.conv_stem.weight"
    elif kind == "unexpected":
        state["gate.weight"] = torch.zeros(1)
        said = "unexpected model.gate.weight"
    elif kind == "shape":
        state["conv_stem.weight"] = torch.zeros(16, 1, 3, 3)
        said = r"model.conv_stem.weight is \(16, 1, 3, 3\) instead of \(16, 3, 3, 3\)"
    else:
        state = source("resnet18").state_dict()
        said = r"does not fit mobilenetv3_small_050: no model.*unexpected model\..* and \d+ more"
    torch.save(state, file)
    return said


@pytest.mark.parametrize("kind", ["missing", "unexpected", "shape", "another network"])
def test_what_does_not_fit_is_named(kind: str, tmp_path: Path) -> None:
    said = spoilt(kind, tmp_path / "a.pth")
    with pytest.raises(UserError, match=said) as caught:
        build(weights=str(tmp_path / "a.pth"))
    assert len(str(caught.value)) < 600 and "a.pth" in str(caught.value)


class Harmful:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Harmful()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="cannot be read as a state dict"):
        build(weights=str(tmp_path / "a.pth"))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.ckpt"])
def test_a_damaged_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"not weights")
    with pytest.raises(UserError, match="cannot be read as a state dict") as caught:
        build(weights=str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"epoch": 1}, {"state_dict": {}}, [1, 2], torch.zeros(2)])
def test_a_file_that_holds_something_else(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"backbone.weights=.*(holds no state dict|cannot be read)"):
        build(weights=str(tmp_path / "a.pth"))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"backbone.weights=.*none.pth does not exist"):
        build(weights=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="does not exist"):
        build(weights=str(tmp_path))


@pytest.mark.parametrize("name", ["mobilenetv2_035", "test_efficientnet", "lcnet_035"])
def test_activations_give_the_same_gradients_without_a_copy(name: str) -> None:
    """In place, autograd copies the input of such an activation first (docs/performance.md)."""
    torch.manual_seed(0)
    made = create_network(name, num_classes=3, image_size=64, pretrained=False, small_input=False, options={})
    in_place = copy.deepcopy(made)
    changed = [module for module in in_place.modules() if isinstance(module, (nn.Hardtanh, nn.SiLU, nn.Hardswish))]
    assert changed
    for module in changed:
        module.inplace = True
    image = torch.rand(4, 3, 64, 64)
    copies = []
    for network in (made, in_place):
        torch.manual_seed(0)  # of dropout
        with torch.profiler.profile() as profile:
            network.train()(image).square().sum().backward()
        copies.append(sum(event.name == "aten::clone" for event in profile.events()))
    assert copies[1] - copies[0] == len(changed)
    pairs = zip(made.named_parameters(), in_place.named_parameters(), strict=True)
    assert all(torch.equal(ours.grad, theirs.grad) for (_, ours), (_, theirs) in pairs)
