"""The libraries that users wrap: what docs/ecosystem.md says of each is what is measured here."""

from __future__ import annotations

from typing import Any

import ecosystem_table as table
import pytest
import torch
from ecosystem_cases import CASES, adapted, gpt2, run_on_ones
from memory import weight_bytes
from object_store import store_in_use, until
from pipelines import Worker

from ray_zerocopy import ActorWrapper, TaskWrapper

pytestmark = [pytest.mark.ecosystem, pytest.mark.usefixtures("cluster")]


@pytest.fixture(scope="module")
def worker(cluster: None) -> Any:
    return Worker.remote()


@pytest.mark.parametrize("name", CASES)
def test_a_library_works_and_shares_as_documented(name: str, worker: Any) -> None:
    case = CASES[name]
    if not case.is_here():
        pytest.skip(f"{case.module} does not import here")
    line = table.without_release(table.measured(case, worker).line(case))
    documented = [table.without_release(each) for each in table.documented()]
    assert line in documented, f"measured: {line}; `make ecosystem-table` rewrites the page"


def test_the_table_has_no_other_lines() -> None:
    assert len(table.documented()) == len(table.header()) + len(CASES)


@pytest.mark.parametrize("name", ["onnx", "bytes", "bytearray", "neighbours", "forest", "index", "shared index"])
def test_what_is_no_module_of_torch_comes_by_name_as_it_was_wrapped(name: str) -> None:
    case = CASES[name]
    pipeline = case.make(True)
    with ActorWrapper(pipeline, name=name) as wrapper:
        assert table.exact(case.answer(wrapper.load())) == table.exact(case.answer(pipeline))


def one_adapter(number: int) -> Any:
    model = adapted(is_small=False, adapters=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter += number
    return model


def test_ten_wrappers_with_names_and_an_adapter_each_take_their_base_once(empty_store: None) -> None:
    base = weight_bytes(gpt2(is_small=False))
    assert base >= 70e6
    wrappers = []
    for number in range(10):
        model = one_adapter(number)
        wrappers.append(ActorWrapper(model, name=f"adapter{number}"))
    adapter = weight_bytes(model) - base
    assert until(lambda: base <= store_in_use() <= base + 10 * adapter + 0.05 * base)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        expected = model(input_ids=tokens).logits
        assert torch.equal(wrappers[9].load()(input_ids=tokens).logits, expected)
        assert not torch.equal(wrappers[8].load()(input_ids=tokens).logits, expected)
    for wrapper in wrappers:
        wrapper.free()


def test_switching_adapters_where_tasks_would_not_see_it_raises() -> None:
    wrapper = TaskWrapper(adapted(is_small=True))
    for change in ("set_adapter", "disable_adapter", "delete_adapter", "merge_adapter"):
        with pytest.raises(AttributeError, match=f"{change}.. would have no effect"):
            getattr(wrapper, change)("adapter1")


def test_an_adapter_is_switched_in_a_loaded_model_and_in_no_other() -> None:
    wrapper = ActorWrapper(adapted(is_small=True))
    one, other = wrapper.load(), wrapper.load()
    one.set_adapter("adapter1")
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        original = other(input_ids=tokens).logits
        assert not torch.equal(one(input_ids=tokens).logits, original)
        assert torch.equal(one(input_ids=tokens, adapter_names=["adapter0"]).logits, original)


@pytest.mark.parametrize("config", ["Int8DynamicActivationInt8WeightConfig", "Float8WeightOnlyConfig"])
def test_other_quantizations_of_torchao_keep_their_bits(config: str) -> None:
    from torchao import quantization

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64)).eval()
    quantization.quantize_(model, getattr(quantization, config)())
    assert torch.equal(run_on_ones(ActorWrapper(model).load()), run_on_ones(model))
    assert type(ActorWrapper(model).load()[0].weight) is type(model[0].weight)
