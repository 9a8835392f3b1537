"""A copy of a GGUF file whose tensors are float32."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

SKIPPED = ("GGUF.", "general.architecture", "general.file_type")


def write_f32(source: Path, target: Path) -> None:
    """Write `target` with the metadata and tensors of `source`, every tensor as float32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for name, field in reader.fields.items():
        if name.startswith(SKIPPED):
            continue
        element = field.types[1] if field.types[0] is gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
