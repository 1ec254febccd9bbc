"""Claims of papers about what foretells generation quality, as a table of data.

Values are Pearson's |r| with gFID over tokenizers. Each says where it is from: a paper's text or abstract, or
a figure that was read by a machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Papers by arXiv's number.
PAPERS = {
    "2603.05630": "Making Reconstruction FID Predictive of Diffusion Generation FID (2026)",
    "2606.03578": "Diffusing in the Right Space: A Systematic Study of Latent Diffusability (2026)",
    "2512.10794": "What Matters for Representation Alignment: Global Information or Spatial Structure (2025)",
    "2502.14831": "Improving the Diffusability of Autoencoders (2025)",
}


@dataclass(frozen=True)
class Claim:
    """A paper's claim that a number goes with generation quality."""

    signal: str  # the metric's name here, without an extractor
    title: str  # how the paper calls the number
    better: str  # "higher" or "lower": which end goes with better generation, by the claim
    value: float | None  # |r|; None: no value of this number alone
    source: str  # arXiv's number; "" for what many say
    how: str  # where the value is from, and what it is of

    @property
    def sign(self) -> float:
        return 1.0 if self.better == "higher" else -1.0

    @property
    def source_text(self) -> str:
        return f"arXiv {self.source}" if self.source else "often said"


def is_number(number: str, signal: str) -> bool:
    """Whether a signal, with any extractor and protocol, is a number such as "iFD"; iFID is iFD too."""
    return re.split(r"[\[ ]", signal)[0] in (number, number.replace("FD", "FID"))


_SUITE = "86 tokenizers"
CLAIMS = (
    Claim("iFD", "iFID", "lower", 0.85, "2603.05630", "abstract; 14 or more VAEs, Pearson's and Spearman's"),
    Claim("iFD", "iFID", "lower", 0.65, "2606.03578", f"read from figure 4 by a machine; {_SUITE}, SiT-B"),
    Claim("VIV", "VIV", "lower", 0.87, "2606.03578", f"text; {_SUITE}, SiT-B"),
    Claim(
        "LNC",
        "LNC",
        "higher",
        None,
        "2606.03578",
        "text; R² = .91 of LNC and SRSS together, no value of LNC alone",
    ),
    Claim(
        "probe_accuracy",
        "linear probing",
        "higher",
        None,
        "2606.03578",
        "text; r = .993 with LNC; for teachers of generators iREPA's project page has |r| = .26",
    ),
    Claim("LDS", "LDS", "higher", 0.85, "2512.10794", "project page; above .85, of a generator's teachers"),
    Claim("CDS", "CDS", "higher", 0.85, "2512.10794", "project page; above .85, of a generator's teachers"),
    Claim("RMSC", "RMSC", "higher", 0.85, "2512.10794", "project page; above .85, of a generator's teachers"),
    Claim(
        "straightness",
        "straightness",
        "higher",
        0.83,
        "2606.03578",
        f"read from figure 9 by a machine; {_SUITE}",
    ),
    Claim(
        "efficiency", "efficiency", "higher", 0.90, "2606.03578", f"read from figure 9 by a machine; {_SUITE}"
    ),
    *(
        Claim(
            signal,
            f"equivariance ({what})",
            better,
            0.53,
            "2606.03578",
            "read from figure 4 by a machine, scales and turns together; the weakest of seven perspectives",
        )
        for signal, what, better in (
            ("PSNR_half", "decoder, half size", "higher"),
            ("PSNR_turned", "decoder, turns", "higher"),
            ("equivariance_error", "encoder, turns", "lower"),
        )
    ),
    Claim(
        "SEC_25",
        "SEC, 25 %",
        "lower",
        None,
        "2606.03578",
        "after 2502.14831: less energy in high frequencies is better; no value at hand",
    ),
    Claim(
        "SEC_50",
        "SEC, 50 %",
        "lower",
        None,
        "2606.03578",
        "after 2502.14831: less energy in high frequencies is better; no value at hand",
    ),
    Claim(
        "rFD",
        "reconstruction (rFD, rFID)",
        "lower",
        None,
        "",
        "better reconstruction is better generation; 2603.05630 and others find that it is not",
    ),
)
