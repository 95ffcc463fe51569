"""mmdet without compiled operators of mmcv: it imports in any order, and an operator complains by name."""

import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HOOK = "tood_mmcv_operators.pth"


def outcome(program: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Of a program in a Python of its own, in which nothing has been imported."""
    call = [sys.executable, "-W", "ignore", *options, "-c", program]
    return subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, env=environment or None)


needs_none = pytest.mark.skipif(
    any(Path(util.find_spec("mmcv").origin).parent.glob("_ext.*")),
    reason="this mmcv has compiled operators, which are left alone",
)


@needs_none
@pytest.mark.parametrize(
    "imports",
    [
        "import tood.heads, mmdet.models",
        pytest.param(
            "from mmdet.apis import init_detector; import mmdet.models, tood.heads", marks=pytest.mark.slow
        ),
    ],
)
def test_any_order_of_imports(imports):
    """Tools that sort imports put mmdet before tood."""
    program = f"{imports}; from mmdet.registry import MODELS; assert 'mmcv.ops' in __import__('sys').modules"
    result = outcome(program)
    assert result.returncode == 0, result.stderr


@needs_none
@pytest.mark.slow  # three processes that import mmdet
def test_on_the_pythonpath_alone_tood_comes_first():
    """Without the hook among the packages, as in a folder that was copied to another machine."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    paths = ":".join([*packages, str(REPOSITORY)])
    alone = ("-S",)  # no .pth file is read
    first = outcome("import tood, mmdet.models", *alone, PYTHONPATH=paths)
    assert first.returncode == 0, first.stderr
    late = "try: import mmdet.models\nexcept ModuleNotFoundError as error: assert 'mmcv._ext' in str(error)\n"
    mended = outcome(
        late + "else: raise SystemExit('no error')\nimport tood.heads, mmdet.models", *alone, PYTHONPATH=paths
    )
    assert mended.returncode == 0, mended.stderr


@needs_none
def test_an_operator_names_itself_and_the_way_to_it():
    program = """if True:
        import torch, mmcv.ops
        from tood.runtime.mmcv_operators import OperatorMissingError
        boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
        for call in (
            lambda: mmcv.ops.nms(boxes, torch.ones(1), 0.5),
            lambda: mmcv.ops.DeformConv2d(2, 2, 1)(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3)),
        ):
            try:
                call()
            except OperatorMissingError as error:
                print(error)
    """
    lines = outcome(program).stdout.splitlines()
    assert [line.split("'")[2] for line in lines] == ["nms", "deform_conv_forward"]
    assert all("TorchvisionNMSMixin" in line and "pip install" in line for line in lines)


def test_compiled_operators_are_left_alone(tmp_path):
    """A module where the compiled one would be is found first; with the hook and with `import tood` alone."""
    (tmp_path / "_ext.py").write_text("def nms(): return 'compiled'\n")
    program = f"""if True:
        import mmcv, tood
        mmcv.__path__.insert(0, {str(tmp_path)!r})
        import mmcv._ext
        print(mmcv._ext.nms())
    """
    assert outcome(program).stdout == "compiled\n"


def test_the_hook_costs_nothing_until_it_is_needed():
    """It is installed, and a Python that looks for no operator imports nothing of this package."""
    program = f"""if True:
        import sys, sysconfig
        from pathlib import Path
        assert Path(sysconfig.get_path("purelib"), {HOOK!r}).is_file()
        try:
            import no_such_module
        except ModuleNotFoundError:
            print([name for name in sys.modules if name.startswith("tood")])
    """
    assert outcome(program).stdout == "[]\n"
