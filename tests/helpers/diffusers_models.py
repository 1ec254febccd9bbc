"""Tiny models of diffusers' classes, and folders of them as `save_pretrained` writes them."""

import atexit
import json
import shutil
import tempfile
from functools import cache

import torch

FLAT = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4}
TWO = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
DCAE = {
    "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
    "encoder_block_out_channels": (8, 16),
    "decoder_block_out_channels": (8, 16),
    "encoder_layers_per_block": (1, 1),
    "decoder_layers_per_block": (1, 1),
    "encoder_qkv_multiscales": ((), (5,)),
    "decoder_qkv_multiscales": ((), (5,)),
    "attention_head_dim": 8,
    "latent_channels": 4,
}
WAN = {"base_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
LTX = {
    "latent_channels": 8,
    "block_out_channels": (8, 8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8, 8),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, False, False),
    "decoder_spatio_temporal_scaling": (True, True, False, False),
    "patch_size": 2,
}
LTX2 = {
    "latent_channels": 8,
    "block_out_channels": (8, 16, 32, 64),
    "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1, 1, 1, 1, 1),
    "decoder_layers_per_block": (1, 1, 1, 1),
}
COG = {"down_block_types": ("CogVideoXDownBlock3D",) * 2, "up_block_types": ("CogVideoXUpBlock3D",) * 2}
HUNYUAN = {
    "down_block_types": ("HunyuanVideoDownBlock3D",) * 4,
    "up_block_types": ("HunyuanVideoUpBlock3D",) * 4,
    "block_out_channels": (8, 8, 8, 8),
    "norm_num_groups": 4,
    "latent_channels": 4,
    "layers_per_block": 1,
}
RAE = {
    "encoder_type": "mae",
    "encoder_hidden_size": 64,
    "encoder_patch_size": 4,
    "encoder_num_hidden_layers": 1,
    "decoder_hidden_size": 32,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "patch_size": 4,
    "encoder_input_size": 16,
    "latents_mean": [[[0.1]]] * 64,
    "latents_std": [[[2.0]]] * 64,
}

# Options by class, of images and then of videos; the keys of variants follow the class after a space.
IMAGES = {
    "AutoencoderKL": FLAT | TWO,
    "AutoencoderKL bare": FLAT | TWO | {"use_quant_conv": False, "use_post_quant_conv": False},
    "AutoencoderKLFlux2": FLAT | TWO,
    "AsymmetricAutoencoderKL": {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "down_block_out_channels": (8, 8),
        "up_block_out_channels": (8, 16),
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": (32, 32),
        "layers_per_block": 1,
        "spatial_compression_ratio": 2,
        "sample_size": 32,
    },
    "AutoencoderKLKVAE": {
        "channels": 32,
        "num_enc_blocks": 1,
        "num_dec_blocks": 1,
        "z_channels": 4,
        "ch_mult": (1, 1),
    },
    "AutoencoderDC": DCAE,
    "AutoencoderTiny": {
        "encoder_block_out_channels": (8, 8),
        "decoder_block_out_channels": (8, 8),
        "num_encoder_blocks": (1, 1),
        "num_decoder_blocks": (1, 1),
    },
    "VQModel": FLAT | TWO | {"num_vq_embeddings": 16, "latent_channels": 3},
    "AutoencoderRAE": RAE,
}
VIDEOS = {
    "AutoencoderKLQwenImage": WAN | {"z_dim": 4, "temperal_downsample": [False, True, True]},
    "AutoencoderKLWan": WAN | {"z_dim": 4},
    "AutoencoderKLWan patches": WAN
    | {"z_dim": 4, "patch_size": 2, "in_channels": 12, "out_channels": 12, "is_residual": True},
    "AutoencoderKLQwenImage21": WAN
    | {"z_dim": 4, "temperal_downsample": [False, True, True], "in_channels": 3, "out_channels": 3},
    "AutoencoderKLCogVideoX": FLAT | COG | {"layers_per_block": 1},
    "AutoencoderKLHunyuanVideo": HUNYUAN,
    "AutoencoderKLKVAEVideo": {
        "ch": 32,
        "ch_mult": (1, 1),
        "num_res_blocks": 1,
        "z_channels": 4,
        "temporal_compress_times": 2,
    },
    "AutoencoderKLLTXVideo": LTX,
    "AutoencoderKLLTX2Video": LTX2,
    "AutoencoderKLHunyuanImageRefiner": {
        "latent_channels": 4,
        "block_out_channels": (32, 32, 32, 32, 32),
        "layers_per_block": 1,
    },
    "AutoencoderKLMagvit": FLAT
    | {
        "down_block_types": ["SpatialDownBlock3D", "SpatialTemporalDownBlock3D"],
        "up_block_types": ["SpatialUpBlock3D", "SpatialTemporalUpBlock3D"],
        "layers_per_block": 1,
    },
    "Kandinsky6SRVAE": {
        "latent_channels": 4,
        "encoder_block_out_channels": (16, 32, 32),
        "decoder_block_out_channels": (16, 32, 32),
        "layers_per_block": 1,
        "temporal_compression_ratio": 2,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32, 32, 32, 32),
        "decoder_block_out_channels": (32, 32, 32, 32),
        "layers_per_block": (1, 1, 1, 1, 1),
        "latent_channels": 4,
    },
}


def model(name, seed=0, **options):
    """A tiny model of a class, all of whose tensors differ from zero, in evaluation mode."""
    import diffusers

    torch.manual_seed(seed)
    made = getattr(diffusers, name.split()[0])(**{**(IMAGES | VIDEOS)[name], **options}).eval()
    for parameter in made.parameters():  # those that start at zero would hide what isn't loaded
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def saved(folder, name="AutoencoderKL", seed=0, **options):
    """A folder with a tiny model; the model."""
    made = model(name, seed, **options)
    made.save_pretrained(folder)
    return made


def edit(folder, **options):
    """Changes options in a folder's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | options))


@cache
def tiny_folder():
    """The path of a folder with a tiny AutoencoderKL, for tests that build every tokenizer."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    saved(folder)
    return folder
