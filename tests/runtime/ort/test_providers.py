"""Execution providers as they are typed: names, options, and refusals in one line."""

import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pocketvlm import EngineSettings, Provider
from pocketvlm.errors import EngineError, RequestError
from pocketvlm.ort.providers import BUILDS, PROVIDERS, read_provider
from pocketvlm.ort.sessions import check_set_up
from pocketvlm.ort.settings import CPU_PROVIDER, providers_typed
from pocketvlm_targets import TargetError
from pocketvlm_targets.target import make_target


def test_short_names_are_those_of_onnx_runtime():
    assert set(PROVIDERS.values()) <= {*ort.get_all_providers(), "WebGpuExecutionProvider"}
    assert set(BUILDS) <= set(PROVIDERS.values())
    assert PROVIDERS["cpu"] == CPU_PROVIDER


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("cpu", CPU_PROVIDER, {}),
        ("OpenVINO", "OpenVINOExecutionProvider", {}),
        ("openvino:device_type=CPU,num_streams=1", "OpenVINOExecutionProvider",
         {"device_type": "CPU", "num_streams": "1"}),
        ("qnn:backend_path=C:\\libs\\QnnHtp.dll", "QNNExecutionProvider",
         {"backend_path": "C:\\libs\\QnnHtp.dll"}),
        ("NoSuchExecutionProvider:a=b=c", "NoSuchExecutionProvider", {"a": "b=c"}),
        ("cuda:prefer_nhwc=", "CUDAExecutionProvider", {"prefer_nhwc": ""}),
    ],
)  # fmt: skip
def test_what_is_typed(text, name, options):
    assert read_provider(text) == (name, options)
    assert Provider.typed(text) == Provider(name, options)


_WORD = st.text(
    st.characters(codec="ascii", categories=("L", "N"), include_characters="_"), min_size=1
)


@given(_WORD, st.dictionaries(_WORD, _WORD))
@settings(max_examples=50, deadline=None)
def test_options_come_back_as_they_were_typed(name, options):
    rest = ",".join(f"{key}={value}" for key, value in options.items())
    read, own = read_provider(f"{name}:{rest}" if rest else name)
    assert (read, own) == (PROVIDERS.get(name.lower(), name), options)


@pytest.mark.parametrize(
    "text", ["", ":", " ", ":a=b", "cpu:a", "cpu:a=1,", "cpu:=1", "cpu:a=1,a=2"]
)
def test_what_is_no_provider(text):
    with pytest.raises(RequestError) as refusal:
        read_provider(text)
    assert refusal.value.setting == "provider"
    assert "\n" not in str(refusal.value)


def test_the_cpu_where_none_is_given():
    assert providers_typed(()) == EngineSettings().providers
    assert providers_typed(("cpu",)) == EngineSettings().providers


@pytest.mark.parametrize("short", ["openvino", "coreml"])
def test_one_that_is_missing_is_refused_with_those_that_there_are(short):
    if PROVIDERS[short] in ort.get_available_providers():
        pytest.skip("it is there")
    with pytest.raises(RequestError) as refusal:
        EngineSettings(providers=providers_typed((short,)))
    line = str(refusal.value)
    assert all(name in line for name in ort.get_available_providers())
    assert (f"pip install {BUILDS.get(PROVIDERS[short])}" in line) == (short == "openvino")


def test_one_that_onnx_runtime_goes_on_without_is_refused():
    check_set_up("a.onnx", [CPU_PROVIDER], ["CUDAExecutionProvider", CPU_PROVIDER])
    with pytest.raises(EngineError, match=r"could not be set up for a\.onnx"):
        check_set_up("a.onnx", ["CUDAExecutionProvider", CPU_PROVIDER], [CPU_PROVIDER])


@pytest.mark.parametrize("value", [["cpu"], ["openvino:device_type=CPU,a=b", "cpu"]])
def test_a_target_names_them(value):
    assert make_target("t", {"description": "d", "provider": value}, {}).provider == tuple(value)


@pytest.mark.parametrize("value", [[], "cpu", [1], [""], ["cpu:a"], ["cpu", "cpu"], ["a b"]])
def test_a_target_that_names_none(value):
    with pytest.raises(TargetError, match="provider is"):
        make_target("t", {"description": "d", "provider": value}, {})


def test_a_misspelt_provider_is_put_right():
    with pytest.raises(RequestError, match="did you mean openvino") as refusal:
        EngineSettings(providers=(Provider.typed("openvno"),))
    assert "short names are cpu, openvino," in str(refusal.value)


def test_the_cpu_has_no_options_that_nothing_reads():
    with pytest.raises(RequestError, match="no option 'foo'"):
        Provider.typed("cpu:foo=1")
