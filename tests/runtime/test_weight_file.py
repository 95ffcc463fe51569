"""Files of weights, as their real producers write them, and files that are anything else."""

import collections
import gzip
import io
import pickle
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.weight_files import Harmful
from mmengine.model import BaseModel
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from tood.runtime.weight_file import WeightFileError, read_weights

STATE = {
    "a": torch.arange(12.0).reshape(3, 4),
    "transposed": torch.arange(12.0).reshape(3, 4).t(),
    "part": torch.arange(10.0)[3:7],
    "half": torch.ones(3).half(),
    "bfloat": torch.ones(3).bfloat16(),
    "double": torch.ones(2).double(),
    "count": torch.tensor(7),
    "mask": torch.tensor([True, False]),
    "none": torch.empty(0, 4),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype
        for name, tensor in expected.items()
    )


def refused(path: Path) -> str:
    with pytest.raises(WeightFileError) as error:
        read_weights(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_of_every_kind_come_back(tmp_path, zipped, protocol):
    others = {"optimizer": {"state": torch.ones(9)}, "best": np.float64(0.4), "all": {np.ones(3).tobytes()}}
    content = {"state_dict": STATE, "meta": {"epoch": 3, "time": np.datetime64("now")}, **others}
    path = tmp_path / "a.pth"
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    found = read_weights(path)
    assert same(found.state_dict, STATE)
    assert found.meta["epoch"] == 3


@pytest.mark.parametrize("content", [STATE, collections.OrderedDict(STATE)], ids=["dict", "ordered"])
def test_a_state_dict_alone(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth").state_dict, STATE)
    assert read_weights(tmp_path / "a.pth").meta is None


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors(tmp_path, name):
    state = {key: tensor.detach().contiguous() for key, tensor in STATE.items()}
    save_file(state, tmp_path / name, metadata={"format": "pt"})
    assert same(read_weights(tmp_path / name).state_dict, state)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-8])
    assert "is damaged or incomplete" in refused(tmp_path / name)


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 1)
        self.norm = torch.nn.BatchNorm2d(2)

    def forward(self, *inputs, mode="tensor"):
        return {"loss": self.norm(self.conv(inputs[0])).square().mean() + self.conv.weight.sum()}


@pytest.mark.parametrize("averages", [False, True], ids=["", "with moving averages"])
def test_a_checkpoint_of_mmengines_runner(tmp_path, averages):
    """With its message hub, whose HistoryBuffer is a class, an optimiser, and schedulers."""
    dataset = TensorDataset(torch.randn(4, 1, 8, 8))
    dataset.metainfo = {"classes": ("disc", "ring"), "palette": [(1, 2, 3)]}
    runner = Runner(
        model=Tiny(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=dataset,
            batch_size=2,
            sampler=dict(type="DefaultSampler"),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)),
        param_scheduler=dict(type="MultiStepLR", milestones=[1]),
        custom_hooks=[dict(type="EMAHook", momentum=0.5)] if averages else [],
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        experiment_name=f"tiny{averages}",
        default_scope="mmdet",  # as in its configurations; it stays for the tests that come after
        log_level="ERROR",
        randomness=dict(seed=0),
    )
    model = runner.train()
    path = tmp_path / "epoch_1.pth"
    with pytest.raises(pickle.UnpicklingError, match="HistoryBuffer"):
        torch.load(path, weights_only=True)
    found = read_weights(path)
    theirs = torch.load(path, weights_only=False)
    assert same(found.state_dict, theirs["state_dict"])
    assert same(found.state_dict, model.state_dict()) != averages  # of which mmengine saves the averages
    assert tuple(found.meta["dataset_meta"]["classes"]) == ("disc", "ring")


class Attributes(dict):
    """As Lightning keeps hyperparameters."""


class Steps(list):
    """A list that is a class."""


def test_a_file_as_lightning_writes_it(tmp_path):
    content = {
        "state_dict": STATE,
        "pytorch-lightning_version": "2.0",
        "hyper_parameters": Attributes(lr=0.1, steps=Steps([1, 2]), path=Path("a")),
        "callbacks": collections.defaultdict(list, {"a": [np.float32(1)]}),
        "loops": {
            "x": {1, 2},
            "device": torch.device("cpu"),
            "size": torch.Size([1]),
            "dtype": torch.float32,
        },
    }
    torch.save(content, tmp_path / "a.ckpt")
    assert same(read_weights(tmp_path / "a.ckpt").state_dict, STATE)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old container"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_is_executed(tmp_path, zipped, protocol):
    path, planted = tmp_path / "a.pth", tmp_path / "planted"
    harm = Harmful(planted)
    for content, is_read in (
        ({"state_dict": STATE, "more": harm, "meta": {"x": [harm]}}, True),
        ({"state_dict": STATE, "meta": harm}, True),
        (harm, False),
        ({"state_dict": harm}, False),
        ({"state_dict": {**STATE, "x": harm}}, False),
        ({harm: 1, "state_dict": STATE}, True),
    ):
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        if is_read:
            assert same(read_weights(path).state_dict, STATE)
        else:
            assert "holds no state dict" in refused(path)
        assert not planted.exists()


def test_what_a_file_is_is_told_by_its_content(tmp_path):
    scripted, archive, arrays, packed = (io.BytesIO() for _ in range(4))
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), scripted)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("results/epoch_12.pth", b"x")
    np.savez(arrays, a=np.ones(3))
    with gzip.GzipFile(fileobj=packed, mode="w") as file:
        file.write(b"x")
    for content, part in (
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404", "is a web page"),
        (b"\n  <HTML>", "is a web page"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error/>", "is a web page"),
        (b'{"error": "no access"}', "is JSON"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 1\n",
            "`git lfs pull` fetches the file",
        ),
        (b"Not found", "it is text"),
        (scripted.getvalue(), "is TorchScript"),
        (archive.getvalue(), "is a zip archive and not of torch, with results/epoch_12.pth"),
        (arrays.getvalue(), "is a zip archive and not of torch, with a.npy"),
        (packed.getvalue(), "compressed by gzip"),
        (b"\x08\x07\x12\x07pytorch\x1a\x032.0:", "is ONNX"),
        (b"\x89HDF\r\n\x1a\n", "is HDF5"),
        (pickle.dumps({"model": np.ones(3)}, protocol=2), "is a pickle and not of torch"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"__metadata__":{}}', "is damaged or incomplete"),
        (random.Random(0).randbytes(5000), "neither of torch nor safetensors"),
    ):
        (tmp_path / "a.pth").write_bytes(content)
        assert part in refused(tmp_path / "a.pth"), content[:20]
    assert "Is a directory" in refused(tmp_path)
    assert "No such file" in refused(tmp_path / "none.pth")


def rewritten(path: Path, **changes: bytes) -> None:
    """Replace parts of a file of torch: its pickle by `pickle`, each storage by `data`."""
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            kind = "pickle" if name.endswith("data.pkl") else "data" if "/data/" in name else ""
            archive.writestr(name, changes.get(kind, content))


def test_a_file_that_says_it_is_larger_than_it_is(tmp_path):
    """No memory is taken, and none is read, for numbers that are not there."""
    path = tmp_path / "a.pth"
    torch.save({"a": torch.zeros(1).expand(10**12)}, path)
    assert "a tensor of [1000000000000] has 1 stored numbers" in refused(path)
    for tensor in (torch.zeros(1000), torch.zeros(10, 100).t()[50:, 2:], torch.zeros(1000)[990:]):
        torch.save({"a": tensor}, path)
        rewritten(path, data=bytes(16))
        assert "has 4 stored numbers" in refused(path)
    rewritten(path, data=bytes(15))
    assert "is damaged or incomplete" in refused(path)
    rewritten(path, pickle=b"\x80\x05\x96" + (2**40).to_bytes(8, "little") + b"x.")
    assert "is damaged or incomplete" in refused(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"N0" * 10**6 + b"N.")
    assert "is compressed or overlaps others" in refused(path)


def variants(path: Path, planted: Path, number: random.Random):
    """Endless bytes that are nearly a file of weights."""
    whole = {}
    for name, zipped in (("zip", True), ("old", False)):
        torch.save(
            {"state_dict": STATE, "meta": {"classes": ["a"]}}, path, _use_new_zipfile_serialization=zipped
        )
        whole[name] = path.read_bytes()
    save_file({"a": torch.ones(3)}, path)
    whole["safetensors"] = path.read_bytes()
    harmful = pickle.dumps(Harmful(planted), protocol=2)[2:-1]
    while True:
        content = bytearray(whole[number.choice(list(whole))])
        place = number.randrange(len(content))
        match number.randrange(4):
            case 0:
                del content[place:]
            case 1:
                for _ in range(number.choice([1, 1, 20])):
                    content[number.randrange(min(len(content), 1500))] = number.randrange(256)
            case 2:
                content[place:place] = number.choice([harmful, b"\0" * 9, number.randbytes(20)])
            case 3:
                del content[place : place + number.randrange(40)]
        yield bytes(content)


def test_damaged_and_hostile_files_are_read_or_refused(tmp_path):
    path, planted, read = tmp_path / "a.pth", tmp_path / "planted", 0
    made = variants(path, planted, random.Random(0))
    for _ in range(600):
        path.write_bytes(next(made))
        try:
            found = read_weights(path)
        except WeightFileError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - a few are read
            assert "\n" not in str(error)  # noqa: PT017
        else:
            read += 1
            assert all(isinstance(tensor.sum().item(), (int, float)) for tensor in found.state_dict.values())
        assert not planted.exists()
    assert read < 300


NESTED = b"2\x86" * 40  # a tuple of the tuple before, twice: 2 ** 40 to look at
STORAGE = b"(X\x07\0\0\0storagectorch\nFloatStorage\n"


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02})" + b"\x85" * 1_000_000 + b"Ns.",
        b"\x80\x02})" + NESTED + b"Ns.",
        b"\x80\x02}()" + NESTED + b"Nu.",
        b"\x80\x02()" + NESTED + pickle.NONE + pickle.DICT + pickle.STOP,
        b"\x80\x04()" + NESTED + b"\x91.",
        b"\x80\x04\x8f()" + NESTED + b"\x90.",
        b"\x80\x02" + STORAGE + b")" + NESTED + b"X\x03\0\0\0cpuK\x01tQ.",
        b"\x80\x02ctorch\nSize\nq\0](" + b"N" * 1_000_000 + b"eq\x01" + b"h\0h\x01\x85R" * 2000 + b".",
        b"\x80\x02ccollections\nOrderedDict\nq\0]("
        + b"NN\x86" * 300_000
        + b"eq\x01"
        + b"h\0h\x01\x85R" * 2000
        + b".",
    ],
    ids=["deep", *(["key", "keys", "mapping", "frozenset", "set"]), "storage", "size", "pairs"],
)
def test_a_small_file_takes_no_time_and_no_memory(tmp_path, pickled):
    """To hash what is nested in a few bytes would crash or never end; copies would fill the memory."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    program = (
        "import resource, sys; from tood.runtime.weight_file import *\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30,) * 2)\n"
        "try: read_weights(sys.argv[1])\nexcept WeightFileError as error: print('refused')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a.pth"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "refused\n", done.stderr[-500:]


def test_a_compressed_archive_is_refused(tmp_path):
    """A few bytes of it could stand for gigabytes; torch compresses nothing."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w", compression=zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a/data.pkl", pickle.dumps(STATE["a"].tolist()))
    assert "is compressed" in refused(tmp_path / "a.pth")


def test_keys_that_hold_others_are_passed_over(tmp_path):
    torch.save({"state_dict": {"a": STATE["a"]}, "seen": {(1, 2): 3}, "set": {(1, 2)}}, tmp_path / "a.pth")
    assert same(read_weights(tmp_path / "a.pth").state_dict, {"a": STATE["a"]})


def test_pairs_as_python_2_wrote_them(tmp_path):
    torch.save({"a": STATE["a"]}, tmp_path / "new.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        pairs = b"((X\x01\0\0\0aK\x07tt"
        archive.writestr("a/data.pkl", b"\x80\x02ccollections\nOrderedDict\n" + pairs + b"\x85R.")
    assert "holds no state dict" in refused(tmp_path / "a.pth")  # but an OrderedDict of a number


def test_numbers_whose_sign_stands_apart_are_refused(tmp_path):
    torch.save({"a": torch.randn(4, dtype=torch.complex64).conj().imag}, tmp_path / "a.pth")
    assert "resolve_neg" in refused(tmp_path / "a.pth")


def test_instructions_of_a_pickle_in_any_order(tmp_path):
    """Random programs for the unpickler, of names and calls, in a file that is otherwise right."""
    number, path, planted = random.Random(0), tmp_path / "a.pth", tmp_path / "planted"
    torch.save({"a": torch.ones(2)}, path)
    names = [b"cposix\nsystem\n", b"cbuiltins\neval\n", b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"]
    names += [
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch\nfloat32\n",
    ]
    words = [f"U{chr(len(text))}{text}".encode() for text in (f"touch {planted}", "state_dict", "__class__")]
    codes = [
        b"R",
        b"b",
        b"\x81",
        b"\x92",
        b"o",
        b"(",
        b")",
        b"}",
        b"]",
        b"t",
        b"a",
        b"e",
        b"s",
        b"u",
        b"2",
        b"0",
    ]
    codes += [
        b"\x85",
        b"\x86",
        b"\x87",
        b"q\x01",
        b"h\x01",
        b"N",
        b"K\x01",
        b"Q",
        b"\x82\x01",
        b"\x93",
        b"\x90",
    ]
    for _ in range(1500):
        program = b"".join(number.choice(number.choice((names, words, codes, codes))) for _ in range(12))
        rewritten(path, pickle=b"\x80\x02" + program + b".")
        refused(path)
        assert not planted.exists()
