"""The model card of an exported tokenizer: how to load it, its numbers with protocols, how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .. import __version__
from ..leaderboard.columns import score_columns, value_text
from ..leaderboard.details import compact, protocols, provenance
from ..leaderboard.numbers import number, plural
from ..leaderboard.rows import Value, tokenizer_rows, tokenizer_seed
from ..nn.model_folder import OWN_CLASS
from ..records.files import read_records
from ..records.record import Record
from ..report.markdown import escape

if TYPE_CHECKING:
    from .find_tokenizer import FoundTokenizer

KL = "AutoencoderKL"  # one of two classes whose latents are normal distributions
MADE = ("matrix", "budget", "seeds", "date", "git_commit", "git_dirty", "latentbench", "packages", "machine")


def model_card(
    trained: FoundTokenizer, class_name: str, notes: Sequence[str], difference: tuple[float, float] | None
) -> str:
    """The card in Markdown with the front matter of Hugging Face's hub.

    Args:
        class_name: diffusers' class, or the one that lies beside the config.
        notes: what the format cannot say.
        difference: of pixels and latents from the trained tokenizer; None if it wasn't measured.
    """
    labels, cell = trained.labels, trained.cell
    spec, image = cell.tokenizer.spec, cell.dataset.image
    grid = spec.grid or (1, spec.tokens)
    parameters = sum(parameter.numel() for parameter in cell.tokenizer.parameters())
    records = _records(trained)
    title = f"{labels['tokenizer']} with {labels['regularizer']} on {labels['dataset']}"
    compared = f"No version of diffusers was at hand to compare {class_name} with the trained tokenizer."
    if difference:
        compared = (
            f"On held-out images its reconstructions differ by at most {difference[0]:.1e} from the trained "
            f"tokenizer's, and its latents by {difference[1]:.1e}."
        )
    sections = [
        "---\nlibrary_name: diffusers\ntags:\n- image-tokenizer\n- latentbench\n---",
        f"# {escape(title)}",
        f"An autoencoder of {parameters:,} parameters from images of {image.channels} x {image.height} x "
        f"{image.width} in [-1, 1] to latents of {spec.channels} x {grid[0]} x {grid[1]}, trained and scored "
        f"by latentbench {__version__}. Its class is {class_name}. {compared}",
        _use(class_name, trained.cell.normalisation.by_position),
        "\n".join(f"- {note}" for note in notes),
        f"## Numbers\n\n{_numbers(records)}",
        f"## How it was made\n\n{_made(trained, records)}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _use(class_name: str, by_position: bool) -> str:
    trust = ", trust_remote_code=True" if class_name == OWN_CLASS else ""
    load = (
        "```python\nimport torch\nfrom diffusers import AutoModel\n\n"
        f'tokenizer = AutoModel.from_pretrained("PATH_OF_THIS_FOLDER"{trust})\n'
    )
    if class_name not in (OWN_CLASS, KL):
        return f"{load}```\n\nIts methods are those of diffusers' {class_name}."
    shape = "" if by_position else "[:, None, None]"
    return (
        f"{load}"
        "z = tokenizer.encode(images).latent_dist.sample()  # or .mode(), the mean\n"
        f"mean, std = (torch.tensor(v){shape} for v in\n"
        "             (tokenizer.config.latents_mean, tokenizer.config.latents_std))\n"
        "z = (z - mean) / std  # what the generators saw; z * std + mean goes back\n"
        "images = tokenizer.decode(z * std + mean).sample\n"
        "```\n\n"
        "`latents_mean` and `latents_std` are those of the training images; `scaling_factor` is 1."
    )


def _records(trained: FoundTokenizer) -> list[Record]:
    """The records of the exported seed's cells."""
    labels = trained.labels
    return [
        record
        for record in read_records(trained.folder / "records")
        if all(record.cell[axis] == labels[axis] for axis in ("dataset", "tokenizer", "regularizer"))
        and tokenizer_seed(record.cell["seed"]) == tokenizer_seed(labels["seed"])
    ]


def _numbers(records: list[Record]) -> str:
    """A table of this tokenizer's metrics, with the protocols below."""
    rows = tokenizer_rows(records)
    columns = score_columns(rows, "tokenizer")
    if not columns:
        return "It was not scored."
    lines = ["| metric | value | 95 % interval | n | protocol | about |", "|---|---|---|---|---|---|"]
    for column in columns:
        value = rows[0].values[column]
        about = escape(str(column.entry.get("about", "")))
        name = " ".join(filter(None, (escape(column.name), column.better)))
        texts = [name, value_text(value, rows[0].seeds), _interval(value), str(column.entry["n"])]
        lines.append(f"| {' | '.join(texts)} | `{column.protocol}` | {about} |")
    explained = [
        f"- `{id}` ({', '.join(map(escape, names))}): {escape(compact(protocol))}"
        for id, (names, protocol) in protocols(columns).items()
    ]
    note = (
        "Intervals are of one trained tokenizer over resampled images: another seed may differ by more. "
        "Numbers compare where protocols are the same."
    )
    return "\n".join(
        [*lines, "", note, "", "<details><summary>Protocols</summary>\n", *explained, "</details>"]
    )


def _interval(value: Value) -> str:
    return "not known" if value.interval is None else "–".join(map(number, value.interval))


def _made(trained: FoundTokenizer, records: list[Record]) -> str:
    described = [f"- data: {escape(line)}" for line in trained.cell.dataset.description()]
    fields = provenance(records) if records else {}
    described += [f"- {name}: {escape('; '.join(fields[name]))}" for name in MADE if name in fields]
    settings = trained.stages[0].config
    parts = {name: settings[name] for name in ("tokenizer", "regularizer", "reconstruction")}
    described += [f"- {name}: `{escape(compact(value))}`" for name, value in parts.items()]
    count = plural(len(records), "record")
    described.append(f"- the whole matrix: `matrix.lock.yaml`; numbers are of {count} in its results folder")
    return "\n".join(described)
