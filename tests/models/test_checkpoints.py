"""Files of weights as trainings leave them: what wraps them is taken off and told, what does not serve is named."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch import nn

from edgecloud.models import checkpoints, registry, weights
from edgecloud.models.zoo.le_net import LeNet
from edgecloud.utils.errors import AppError, MismatchError, UsageError

State = dict[str, torch.Tensor]


def little() -> nn.Module:
    """Has a parameter, a buffer, and nested names."""
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Sequential(nn.Linear(4, 3)))


def state_of(seed: int, make: Callable[[], nn.Module] = little) -> State:
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in make().state_dict().items()}


def filled(path: Path, make: Callable[[], nn.Module] = little) -> tuple[State, str]:
    """The weights that a network has afterwards, and what was told."""
    model = make()
    told = checkpoints.fill(model, path, "little").told
    return dict(model.state_dict()), told


PREFIXES = st.lists(
    st.sampled_from(["module.", "_orig_mod.", "model.", "net.", "backbone.", "model.encoder."]), max_size=3
).map("".join)
WRAPPERS = st.lists(
    st.sampled_from(["state_dict", "model", "model_state_dict", "net", "ema", "state_dict_ema", "params", "weights"]),
    max_size=2,
)
BESIDE = st.dictionaries(
    st.sampled_from(["epoch", "optimizer", "loss", "hyper_parameters", "arch", "amp"]),
    st.one_of(st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.just({"lr": [0.1]}), st.none()),
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(prefix=PREFIXES, wrappers=WRAPPERS, beside=BESIDE, suffix=st.sampled_from([".pt", ".pth", ".bin", ".ckpt"]))
def test_whatever_wraps_the_weights_is_taken_off_and_told(
    tmp_path_factory: pytest.TempPathFactory, prefix: str, wrappers: list[str], beside: dict[str, Any], suffix: str
) -> None:
    state = state_of(1)
    content: dict[str, Any] = {prefix + name: tensor for name, tensor in state.items()}
    for wrapper in wrappers:
        content = {**beside, wrapper: content}
    path = tmp_path_factory.getbasetemp() / f"drawn{suffix}"
    torch.save(content, path)
    found, told = filled(path)
    torch.testing.assert_close(found, state)
    assert (prefix in told) if prefix else ("prefix" not in told)
    assert (".".join(reversed(wrappers)) in told) if wrappers else ("taken" not in told)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("2.0.", "2.module.0."),
        lambda name: f"_orig_mod.{name}".replace("2.0.", "2._orig_mod.0."),
        lambda name: f"module._orig_mod.{name}",
    ],
)
def test_parts_that_wrappers_put_inside_of_names_are_taken_out(rename: Callable[[str], str], tmp_path: Path) -> None:
    state = state_of(1)
    torch.save({rename(name): tensor for name, tensor in state.items()}, tmp_path / "w.pt")
    found, told = filled(tmp_path / "w.pt")
    torch.testing.assert_close(found, state)
    assert told


def test_a_wrapped_network_takes_plain_weights(tmp_path: Path) -> None:
    state = state_of(1)
    torch.save(state, tmp_path / "w.pt")
    found, _ = filled(tmp_path / "w.pt", lambda: nn.DataParallel(little()))
    torch.testing.assert_close(found, {f"module.{name}": tensor for name, tensor in state.items()})


def test_le_net_with_every_wrapper_answers_as_with_plain_weights(tmp_path: Path) -> None:
    """Through the whole of `weights.load`: the digest is that of the plain file, so both sides may have either."""
    state = state_of(3, LeNet)
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"state_dict": {f"model.{name}": t for name, t in state.items()}, "epoch": 3}, tmp_path / "wrapped.ckpt")
    entry = registry.lookup("le_net")
    plain, wrapped = (weights.load(entry, str(tmp_path / name)) for name in ("plain.pt", "wrapped.ckpt"))
    assert plain.digest == wrapped.digest
    assert plain.origin == f"file {tmp_path / 'plain.pt'}"
    assert wrapped.origin.endswith("(taken from 'state_dict', without the prefix 'model.')")


def test_what_is_beside_the_networks_own_is_left_out_and_told(tmp_path: Path) -> None:
    state = {f"module.{name}": tensor for name, tensor in state_of(1).items()}
    torch.save({**state, "n_averaged": torch.tensor(5)}, tmp_path / "swa.pt")
    found, told = filled(tmp_path / "swa.pt")
    torch.testing.assert_close(found, state_of(1))
    assert "1 others ignored, such as n_averaged" in told


def test_of_a_network_and_its_average_the_network_is_taken_and_that_is_told(tmp_path: Path) -> None:
    torch.save({"ema": state_of(1), "model": state_of(2), "epoch": 1}, tmp_path / "both.pt")
    found, told = filled(tmp_path / "both.pt")
    torch.testing.assert_close(found, state_of(2))
    assert told == "taken from 'model'; not the average in 'ema'"


def test_two_networks_in_one_file_are_not_guessed_between(tmp_path: Path) -> None:
    two = {**{f"student.{n}": t for n, t in state_of(1).items()}, **{f"teacher.{n}": t for n, t in state_of(2).items()}}
    torch.save(two, tmp_path / "two.pt")
    with pytest.raises(UsageError, match=r"twice, in 'student\.' and 'teacher\.'"):
        filled(tmp_path / "two.pt")
    torch.save({"model": state_of(1), "state_dict": state_of(1)}, tmp_path / "same.pt")  # one network all the same
    torch.testing.assert_close(filled(tmp_path / "same.pt")[0], state_of(1))


class Tied(nn.Module):
    """A decoder that shares the matrix of its encoder, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Linear(4, 5, bias=False)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.wte.weight


def test_tied_tensors_are_read_from_wherever_they_are(tmp_path: Path) -> None:
    model = Tied()
    save_model(model, str(tmp_path / "model.safetensors"))  # keeps one, and notes the other's name
    save_file({"head.weight": model.head.weight.detach().clone()}, tmp_path / "head.safetensors")
    torch.save(model.state_dict(), tmp_path / "both.pt")
    for name in ("model.safetensors", "head.safetensors", "both.pt"):
        found, _ = filled(tmp_path / name, Tied)
        torch.testing.assert_close(found["wte.weight"], model.wte.weight.detach())
        torch.testing.assert_close(found["head.weight"], model.wte.weight.detach())
    torch.save({"wte.weight": torch.zeros(5, 4), "head.weight": torch.ones(5, 4)}, tmp_path / "differ.pt")
    with pytest.raises(UsageError, match=r"wte\.weight and head\.weight differ in the file, but are one tensor"):
        filled(tmp_path / "differ.pt", Tied)


def test_what_safetensors_noted_as_tied_fills_a_network_that_is_not(tmp_path: Path) -> None:
    class Untied(Tied):
        def __init__(self) -> None:
            super().__init__()
            self.head.weight = nn.Parameter(torch.zeros(5, 4))

    model = Tied()
    save_model(model, str(tmp_path / "model.safetensors"))
    found, _ = filled(tmp_path / "model.safetensors", Untied)
    torch.testing.assert_close(found["head.weight"], model.wte.weight.detach())


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_several_files_are_read_by_their_index(suffix: str, tmp_path: Path) -> None:
    state = state_of(1)
    names = sorted(state)
    shards = {f"model-0000{n + 1}-of-00002{suffix}": names[n::2] for n in range(2)}
    for shard, held in shards.items():
        content = {name: state[name] for name in held}
        save_file(content, tmp_path / shard) if suffix == ".safetensors" else torch.save(content, tmp_path / shard)
    places = {name: shard for shard, held in shards.items() for name in held}
    index = tmp_path / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    torch.testing.assert_close(filled(index)[0], state)
    first = next(iter(shards))
    with pytest.raises(MismatchError, match=r"one of several files: use their index\.json"):
        filled(tmp_path / first)
    for wrong, told in (
        ({"weight_map": {**places, "0.bias": "../outside.pt"}}, "must be in the same directory"),
        ({"weight_map": {**places, "0.bias": "absent.pt"}}, "does not exist: copy all"),
        ({"weight_map": {**places, "more": first}}, "more in"),
        ({"weight_map": []}, "the limit for a weights index|is not a weights index"),
        ([], "is not a weights index"),
    ):
        index.write_text(json.dumps(wrong))
        with pytest.raises(UsageError, match=told):
            filled(index)


def test_a_counter_that_old_files_lack_is_not_needed(tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in state_of(1).items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pt")
    found, _ = filled(tmp_path / "old.pt")
    torch.testing.assert_close({name: found[name] for name in state}, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_of_floats_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state_of(1).items()}
    torch.save(state, tmp_path / "w.pt")
    found, _ = filled(tmp_path / "w.pt")
    torch.testing.assert_close(found["0.weight"], state["0.weight"].float())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.complex64, torch.bool, torch.float8_e4m3fn])
def test_integer_and_complex_weights_are_refused_by_name(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save({**state_of(1), "0.weight": state_of(1)["0.weight"].to(dtype)}, tmp_path / "w.pt")
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(UsageError, match=rf"0\.weight is {kind} in the file and float32 in little: save it as float32"):
        filled(tmp_path / "w.pt")


class Hostile:
    """Would make a file if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._path}",)


def unfit(folder: Path) -> dict[str, str]:
    """Files that hold no weights, by name, and what has to be told of each."""
    state = state_of(1)
    torch.save(little(), folder / "module.pt")
    torch.save({"state_dict": state, "callback": Hostile(folder / "ran")}, folder / "hostile.pt")
    torch.save(Hostile(folder / "ran"), folder / "hostile.ckpt", _use_new_zipfile_serialization=False)
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(little()).save(str(folder / "script.pt"))  # type: ignore[no-untyped-call]
    (folder / "cut.pt").write_bytes((folder / "module.pt").read_bytes()[:900])
    made = {
        "lfs.safetensors": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1234\n",
        "lfs.pt": b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1234\n",
        "html.pt": b"<!DOCTYPE html><html>404</html>",
        "html.safetensors": b"\n<html><head><title>Sign in</title>",
        "keras.bin": b"\x89HDF\r\n\x1a\n" + bytes(40),
        "llama.bin": b"GGUF" + bytes(40),
        "packed.pt": b"\x1f\x8b\x08" + bytes(40),
        "empty.ckpt": b"",
        "noise.pt": bytes(range(256)),
        "net.onnx": b"\x08\x07\x12\x07pytorch",
    }
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return {
        "module.pt": r"is a pickled module.*torch\.save\(model\.state_dict\(\)",
        "hostile.pt": r"posix\.system.*never loaded",
        "hostile.ckpt": r"posix\.system.*never loaded",
        "script.pt": "a TorchScript program",
        "cut.pt": "damaged, truncated",
        "lfs.safetensors": "git-lfs pointer.*git lfs pull",
        "lfs.pt": "git-lfs pointer.*git lfs pull",
        "html.pt": "an HTML page.*download",
        "html.safetensors": "an HTML page.*download",
        "keras.bin": "HDF5",
        "llama.bin": "GGUF",
        "packed.pt": "gzip",
        "empty.ckpt": "is empty",
        "noise.pt": "not a plain weights file",
        "net.onnx": r"\.safetensors, \.pt",
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_holds_no_weights_is_named_with_the_cure_and_never_run(tmp_path: Path) -> None:
    for name, told in unfit(tmp_path).items():
        with pytest.raises(UsageError, match=told) as caught:
            filled(tmp_path / name)
        message = str(caught.value)
        assert name in message
        assert "\n" not in message
        assert "weights_only" not in message
        assert len(message) < 400 + len(str(tmp_path)), name
    assert not (tmp_path / "ran").exists()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([".pt", ".safetensors", ".bin", ".json"]))
def test_any_bytes_end_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str) -> None:
    path = tmp_path_factory.getbasetemp() / f"any{suffix}"
    path.write_bytes(data)
    with pytest.raises(AppError) as caught:
        filled(path)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
