"""Parquet files as Hugging Face's `datasets` writes them, made from folders of pictures by pyarrow alone."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture_table(files, labels=None, names=None, text=False, **others):
    """A table of picture files, with Hugging Face's metadata if the labels have names."""
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    columns = {"image": pa.array(cells, IMAGE)}
    if labels is not None:
        columns["label"] = pa.array(labels, pa.string() if text else pa.int64())
    table = pa.table(columns | others)
    if names is None:
        return table
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(table, file, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, **options)
    return file


def as_parquet(folder, root, names=("validation",), rows=5):
    """The sets of `class_folders(folder)` below `root/data`, the training set in two shards."""
    for split, name in (("train", "train"), ("val", names[0])):
        files = sorted((folder / split).glob("*/*"))
        classes = sorted({file.parent.name for file in files})
        table = picture_table(files, [classes.index(file.parent.name) for file in files], classes)
        shards = 2 if split == "train" else 1
        for number in range(shards):
            part = table.slice(number * rows, rows if number < shards - 1 else None)
            write(part, root / f"data/{name}-{number:05}-of-{shards:05}.parquet", row_group_size=3)
    return root
