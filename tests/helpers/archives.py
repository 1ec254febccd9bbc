"""Archives as strangers might make them."""

import io
import stat
import zipfile


def archive(path, files, link=None):
    """Writes a ZIP file of {name: content}; `link` is the name of a symbolic link among them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            kind = stat.S_IFLNK if name == link else stat.S_IFREG
            entry.external_attr, entry.create_system = (kind | 0o777) << 16, 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(entry, content)
    return path


def understated(path, name, size):
    """Writes an archive of a file of so many zeros that says that the file has one byte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(name, b"\0" * size)
    content, field = buffer.getvalue(), size.to_bytes(4, "little")
    assert content.count(field) >= 2  # in the local header and in the directory
    path.write_bytes(content.replace(field, (1).to_bytes(4, "little")))
    return path
