"""A tokenizer that latentbench trained, as a model of diffusers; latentbench has to be installed, too.

from diffusers import AutoModel
tokenizer = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin

from latentbench.bench import registry
from latentbench.bench.api import ImageSpec


class LatentbenchTokenizer(ModelMixin, ConfigMixin):  # type: ignore[misc]  # both have `config_name`
    """A tokenizer of latentbench with the methods of diffusers' autoencoders.

    Latents are (B, C, h, w), or (B, C, 1, T) where tokens have no grid. `latents_mean` and `latents_std`
    normalise them, by channel or, as (C, h, w), by position.
    """

    @register_to_config
    def __init__(
        self,
        part: str = "vit",
        options: dict[str, Any] | None = None,
        image: tuple[int, int, int] = (3, 256, 256),
        expansion: int = 1,
        log_variance: float = -30.0,
        layer_norm: bool = False,
        scaling_factor: float = 1.0,
        latents_mean: list[Any] | None = None,
        latents_std: list[Any] | None = None,
        auto_map: dict[str, str] | None = None,
    ) -> None:
        """
        Args:
            part: the tokenizer's name in latentbench, with its `options`.
            expansion: 2 where the encoder gives a mean and a log-variance, else 1.
            log_variance: of the posterior where the encoder gives none.
            layer_norm: whether the posterior's mean is the encoder's after layer norm over the channels.
        """
        super().__init__()
        self.has_variance, self.log_variance, self.layer_norm = expansion == 2, log_variance, layer_norm
        facts = {"image": ImageSpec(*image), "expansion": expansion}
        tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in (options or {}).items()}
        self.tokenizer = registry.build("tokenizers", part, facts, tuples)
        spec = self.tokenizer.spec
        self.grid = spec.grid or (1, spec.tokens)

    def encode(self, x: torch.Tensor, return_dict: bool = True) -> Any:
        """Images (B, c, H, W) in [-1, 1] -> the posterior of their latents, as `latent_dist`."""
        h = self.tokenizer.encode(x)
        if self.layer_norm:
            h = torch.nn.functional.layer_norm(h, h.shape[-1:])
        if not self.has_variance:
            h = torch.cat([h, torch.full_like(h, self.log_variance)], -1)
        posterior = DiagonalGaussianDistribution(h.transpose(1, 2).unflatten(2, self.grid))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: torch.Tensor, return_dict: bool = True) -> Any:
        """Latents (B, C, h, w) -> images (B, c, H, W), as `sample`."""
        images = self.tokenizer.decode(z.flatten(2).transpose(1, 2))
        return DecoderOutput(sample=images) if return_dict else (images,)

    def forward(self, sample: torch.Tensor, sample_posterior: bool = False, return_dict: bool = True) -> Any:
        """Images (B, c, H, W) in [-1, 1] -> their reconstructions."""
        posterior = self.encode(sample).latent_dist
        return self.decode(posterior.sample() if sample_posterior else posterior.mode(), return_dict)
