"""Networks of public packages with random weights: what captures each, and whether every half is right.

Networks of timm, one of each family, 8 of transformers, built from small configurations, and a network of the shape
of YOLO with three outputs. Each is a file as a user would write it (`--files FOLDER` keeps them); what is done with
them is `benchmarks.custom_models`. Needs timm and transformers:

    pip install timm transformers
    python -m benchmarks.zoo_models [PATTERN ...] [-o NAME] [--files FOLDER]
"""

import argparse
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import custom_models

_TIMM_NAMES = (
    "resnet18 resnext50_32x4d densenet121 efficientnet_b0 mobilenetv3_small_100 ghostnetv2_100 regnetx_002 "
    "convnext_atto vit_tiny_patch16_224 swin_tiny_patch4_window7_224 mobilevitv2_050 efficientformer_l1 "
    "edgenext_xx_small poolformer_s12 pvt_v2_b0 mixer_s32_224 resmlp_12_224 levit_128s xcit_nano_12_p16_224 "
    "coat_lite_tiny crossvit_9_240 dla46_c hrnet_w18_small res2net50_26w_4s tiny_vit_5m_224 fastvit_t8 sequencer2d_s "
    "gernet_s skresnet18 twins_svt_small eva02_tiny_patch14_224 inception_next_atto"
)
TIMM = tuple(_TIMM_NAMES.split())

_TIMM = """import timm

INPUT_SHAPE = (3, {side}, {side})


def build():
    return timm.create_model("{name}", pretrained=False)
"""

_SMALL = "hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128"
_TOKENS = '{"input_ids": torch.randint(0, 1000, (1, 16)), "attention_mask": torch.ones(1, 16, dtype=torch.int64)}'
_TRANSFORMERS: dict[str, tuple[str, str]] = {
    "bert": (f"BertForSequenceClassification(BertConfig(vocab_size=1000, {_SMALL}))", _TOKENS),
    "distilbert": (
        "DistilBertForSequenceClassification(DistilBertConfig(vocab_size=1000, dim=64, n_layers=2, n_heads=2, "
        "hidden_dim=128))",
        _TOKENS,
    ),
    "gpt2_prefill": (
        "GPT2LMHeadModel(GPT2Config(vocab_size=1000, n_embd=64, n_layer=2, n_head=2, use_cache=False))",
        _TOKENS,
    ),
    "vit": (f"ViTForImageClassification(ViTConfig(image_size=64, {_SMALL}))", "torch.rand(1, 3, 64, 64)"),
    "whisper_encoder": (
        "WhisperModel(WhisperConfig(vocab_size=1000, d_model=64, encoder_layers=2, decoder_layers=2, "
        "encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=128, decoder_ffn_dim=128, "
        "max_source_positions=150, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1)).encoder",
        "torch.rand(1, 80, 300)",
    ),
    "clip_vision": (
        f"CLIPVisionModelWithProjection(CLIPVisionConfig(image_size=64, patch_size=16, projection_dim=32, {_SMALL}))",
        "torch.rand(1, 3, 64, 64)",
    ),
    "segformer": (
        "SegformerForSemanticSegmentation(SegformerConfig(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], "
        "decoder_hidden_size=64))",
        "torch.rand(1, 3, 64, 64)",
    ),
    "wav2vec2": (
        "Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=32, num_feat_extract_layers=7, conv_dim=(32,) * 7, "
        f"num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, {_SMALL}))",
        "torch.rand(1, 16000)",
    ),
}
_TRANSFORMER = """import torch
from transformers import {classes}


def example():
    return {example}


def build():
    return {build}
"""

_YOLO = '''import torch
from torch import nn

INPUT_SHAPE = (3, 128, 128)


def conv(width, out, side=3, step=1):
    return nn.Sequential(
        nn.Conv2d(width, out, side, step, side // 2, bias=False), nn.BatchNorm2d(out), nn.SiLU(inplace=True)
    )


class Csp(nn.Module):
    """Half of the channels go around a few bottlenecks, and every one of those is kept."""

    def __init__(self, width, count=2):
        super().__init__()
        self.before, self.after = conv(width, width, 1), conv(width // 2 * (2 + count), width, 1)
        self.inside = nn.ModuleList(conv(width // 2, width // 2) for _ in range(count))

    def forward(self, x):
        parts = list(self.before(x).chunk(2, 1))
        parts.extend(one(parts[-1]) for one in self.inside)
        return self.after(torch.cat(parts, 1))


class Detector(nn.Module):
    """A backbone, a pyramid up and down again, and boxes and classes at three scales, decoded on a grid."""

    def __init__(self, classes=7):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 16, 3, 2), conv(16, 32, 3, 2), Csp(32))
        self.down = nn.ModuleList(
            nn.Sequential(conv(width, 2 * width, 3, 2), Csp(2 * width)) for width in (32, 64, 128)
        )
        self.up = nn.Upsample(scale_factor=2)
        self.join4, self.join3 = conv(256 + 128, 128, 1), conv(128 + 64, 64, 1)
        self.again4, self.again5 = conv(64, 128, 3, 2), conv(128, 256, 3, 2)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in (64, 256, 512))
        self.classes = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in (64, 256, 512))

    def forward(self, x):
        p3 = self.down[0](self.stem(x))
        p4 = self.down[1](p3)
        p5 = self.down[2](p4)
        p4 = self.join4(torch.cat([self.up(p5), p4], 1))
        p3 = self.join3(torch.cat([self.up(p4), p3], 1))
        p4 = torch.cat([self.again4(p3), p4], 1)
        p5 = torch.cat([self.again5(p4[:, :128]), p5], 1)
        answers = []
        for scale, boxes, classes, step in zip((p3, p4, p5), self.boxes, self.classes, (8, 16, 32)):
            rows, columns = torch.meshgrid(
                torch.arange(scale.shape[2]), torch.arange(scale.shape[3]), indexing="ij"
            )
            places, sizes = boxes(scale).split(2, 1)
            centres = (torch.stack([columns, rows]) + places.sigmoid()) * step
            answers.append(torch.cat([centres, sizes.exp() * step, classes(scale).sigmoid()], 1).flatten(2))
        return tuple(answers)


def build():
    return Detector()
'''


def files() -> dict[str, str]:
    """Names of the networks, and what their files say."""
    made = {f"timm_{name}": _TIMM.format(name=name, side=240 if "240" in name else 224) for name in TIMM}
    made |= {
        f"transformers_{name}": _TRANSFORMER.format(
            build=build, example=example, classes=", ".join(re.findall(r"\b([A-Z]\w+)\(", build))
        )
        for name, (build, example) in _TRANSFORMERS.items()
    }
    return made | {"yolo_shaped": _YOLO}


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, and try each."""
    parser = argparse.ArgumentParser("benchmarks.zoo_models", description=__doc__)
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="of names, such as 'timm_*'")
    parser.add_argument("-o", dest="table", metavar="NAME", help="also write benchmarks/results/NAME.md")
    parser.add_argument("--rows", nargs="+", metavar="FILE", help="what earlier runs printed, not run again")
    parser.add_argument("--files", type=Path, metavar="FOLDER", help="where to keep the files")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(exist_ok=True, parents=True)
        for name, text in files().items():
            (folder / f"{name}.py").write_text(text, encoding="utf-8")
        table = ["-o", options.table] if options.table else []
        rows = ["--rows", *options.rows] if options.rows else []
        return custom_models.main([str(folder), *options.patterns, *table, *rows], "Networks of public packages")


if __name__ == "__main__":
    raise SystemExit(main())
