"""Image models: transformers with and without windows, depthwise and grouped convolutions, detection, segmentation."""

from __future__ import annotations

from typing import Any

from benchmarks.zoo import Entry, Inputs
from benchmarks.zoo_models.build import VOCABULARY, hub_entry, images, padding_mask, token_ids

VIT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 10,
}


def _vision(name: str, model: str, size: int = 32, **options: Any) -> Entry:
    return hub_entry(name, "vision", model, options.pop("inputs", images(size)), options.pop("config", None), **options)


def _vit(name: str, model: str, **options: Any) -> Entry:
    return _vision(name, model, **(VIT | options))


def _pair(text: int = 12) -> Any:
    def make(batch: int) -> Inputs:
        import torch

        return (), {
            "input_ids": token_ids(batch, text),
            "pixel_values": torch.randn(batch, 3, 32, 32),
            "attention_mask": padding_mask(batch, text),
        }

    return make


def _noise(batch: int) -> Inputs:
    import torch

    return (), {"pixel_values": torch.randn(batch, 3, 32, 32), "noise": torch.rand(batch, 16)}


TOWER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CLIP: dict[str, Any] = {
    "text_config": TOWER
    | {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "vision_config": TOWER | {"image_size": 32, "patch_size": 8},
}


def _resnet_backbone() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], out_features=["stage4"])


ENTRIES: list[Entry] = [
    _vit("vit", "ViTForImageClassification"),
    _vit("deit", "DeiTForImageClassification"),
    _vit("beit", "BeitForImageClassification", use_relative_position_bias=True),
    _vit("data2vec-vision", "Data2VecVisionForImageClassification", use_shared_relative_position_bias=True),
    _vit("dinov2", "Dinov2ForImageClassification", use_swiglu_ffn=True),
    _vit("ijepa", "IJepaForImageClassification"),
    _vit(
        "vit-mae",
        "ViTMAEForPreTraining",
        inputs=_noise,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
    ),
    _vit("yolos", "YolosForObjectDetection", image_size=[32, 32], num_detection_tokens=5),
    _vision(
        "swin",
        "SwinForImageClassification",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=10,
    ),
    _vision(
        "swinv2",
        "Swinv2ForImageClassification",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=10,
    ),
    _vision(
        "donut-swin",
        "DonutSwinModel",
        image_size=32,
        patch_size=2,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
    ),
    _vision(
        "swin2sr",
        "Swin2SRForImageSuperResolution",
        size=16,
        config="Swin2SRConfig",
        image_size=16,
        patch_size=1,
        embed_dim=16,
        depths=[2],
        num_heads=[2],
        window_size=4,
        upscale=2,
    ),
    _vision(
        "convnext", "ConvNextForImageClassification", hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1], num_labels=10
    ),
    _vision(
        "convnextv2",
        "ConvNextV2ForImageClassification",
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_labels=10,
    ),
    _vision(
        "resnet",
        "ResNetForImageClassification",
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_labels=10,
    ),
    _vision(
        "resnet-bottleneck",
        "ResNetForImageClassification",
        embedding_size=8,
        hidden_sizes=[16, 32],
        depths=[2, 1],
        layer_type="bottleneck",
        num_labels=10,
    ),
    _vision(
        "regnet",
        "RegNetForImageClassification",
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        groups_width=4,
        num_labels=10,
    ),
    _vision(
        "mobilenet-v1",
        "MobileNetV1ForImageClassification",
        depth_multiplier=0.25,
        min_depth=8,
        image_size=32,
        num_labels=10,
    ),
    _vision("mobilenet-v2", "MobileNetV2ForImageClassification", depth_multiplier=0.25, image_size=32, num_labels=10),
    _vision(
        "efficientnet",
        "EfficientNetForImageClassification",
        size=33,
        image_size=33,
        hidden_dim=320,
        width_coefficient=0.25,
        depth_coefficient=0.3,
        pooling_type="mean",
        in_channels=[16, 16],
        out_channels=[16, 16],
        kernel_sizes=[3, 5],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 6],
        depthwise_padding=[],
        num_labels=10,
    ),
    _vision(
        "mobilevit",
        "MobileViTForImageClassification",
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 16, 24, 24, 32],
        num_attention_heads=2,
        image_size=64,
        size=64,
        num_labels=10,
        output_stride=32,
    ),
    _vision(
        "segformer",
        "SegformerForSemanticSegmentation",
        size=64,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
        num_labels=5,
    ),
    _vit(
        "dpt",
        "DPTForDepthEstimation",
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 16, 16, 32],
        fusion_hidden_size=16,
        is_hybrid=False,
    ),
    _vision(
        "levit",
        "LevitForImageClassification",
        size=64,
        image_size=64,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[1, 2, 3],
        key_dim=[8, 8, 8],
        depths=[1, 1, 1],
        down_ops=[["Subsample", 8, 2, 4, 2, 2], ["Subsample", 8, 4, 4, 2, 2]],
        num_labels=10,
    ),
    _vision(
        "poolformer",
        "PoolFormerForImageClassification",
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_labels=10,
    ),
    _vision(
        "pvt",
        "PvtForImageClassification",
        size=64,
        image_size=64,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        sequence_reduction_ratios=[8, 4, 2, 1],
        num_labels=10,
    ),
    _vision(
        "pvt-v2",
        "PvtV2ForImageClassification",
        size=64,
        image_size=64,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        num_labels=10,
    ),
    _vision(
        "cvt",
        "CvtForImageClassification",
        size=64,
        embed_dim=[16, 32, 48],
        num_heads=[1, 2, 3],
        depth=[1, 2, 3],
        num_labels=10,
    ),
    _vision(
        "focalnet",
        "FocalNetForImageClassification",
        image_size=32,
        patch_size=4,
        embed_dim=16,
        hidden_sizes=[16, 32],
        depths=[1, 1],
        focal_levels=[2, 2],
        focal_windows=[3, 3],
        num_labels=10,
    ),
    _vision(
        "hiera",
        "HieraForImageClassification",
        image_size=[32, 32],
        patch_size=[3, 3],
        patch_stride=[2, 2],
        patch_padding=[1, 1],
        embed_dim=16,
        depths=[1, 1],
        num_heads=[1, 2],
        masked_unit_size=[4, 4],
        query_stride=[2, 2],
        num_query_pool=1,
        num_labels=10,
    ),
    _vision(
        "swiftformer",
        "SwiftFormerForImageClassification",
        size=64,
        depths=[1, 1, 1, 1],
        embed_dims=[8, 16, 16, 32],
        num_labels=10,
    ),
    _vision(
        "detr",
        "DetrForObjectDetection",
        size=64,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_resnet_backbone,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=5,
    ),
    _vision(
        "upernet",
        "UperNetForSemanticSegmentation",
        size=64,
        backbone_config=lambda: _all_stages(),
        hidden_size=16,
        pool_scales=[1, 2],
        auxiliary_in_channels=16,
        auxiliary_channels=8,
        num_labels=5,
    ),
    hub_entry("clip", "vision-text", "CLIPModel", _pair(), **CLIP, projection_dim=16),
    hub_entry("siglip", "vision-text", "SiglipModel", _pair(), **CLIP),
    hub_entry(
        "vilt", "vision-text", "ViltModel", _pair(), **(VIT | {"vocab_size": VOCABULARY, "max_position_embeddings": 64})
    ),
    hub_entry("blip-vision", "vision", "BlipVisionModel", images(32), **(VIT)),
]


def _all_stages() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
