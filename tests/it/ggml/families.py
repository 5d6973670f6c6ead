"""The text prompts of the families' reference data and what the reference answers, for families.rs:

    python tests/it/ggml/families.py WHOLE_SET > tests/it/ggml/families.json
"""
import json
import sys
from pathlib import Path

from safetensors.numpy import load_file

rows = {}
for path in sorted(Path(sys.argv[1]).glob("model/*/index.json")):
    case = json.loads(path.read_text())["cases"]["text"]["variants"]["published"]
    ids = load_file(path.parent / "text.inputs.safetensors")["input_ids"].tolist()
    rows[path.parent.name] = {"ids": ids, "generated": case["generated"][: case["safe_steps"]]}
print("{\n" + ",\n".join(f'"{name}": {json.dumps(row)}' for name, row in rows.items()) + "\n}")
