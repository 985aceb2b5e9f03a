"""One process of two starts: of one without training, what it looked at itself and the data that it ends with; and
the command line of one that is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import AutoProcessor

from mmi_plugin.sources import stored
from mmi_plugin.trainers import run
from mmi_plugin.trainers.checks import RowCheck
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.data import check_rows, data_hash, load_benchmarks

fields, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
args = MMIConfig(**fields)
looked: list[str] = []
read, check = stored.Part.__init__, RowCheck.check_item
stored.Part.__init__ = lambda self, *given: looked.append("part") or read(self, *given)
RowCheck.check_item = lambda self, *given: looked.append("row") or check(self, *given)
processor = AutoProcessor.from_pretrained(args.model_name_or_path)
benchmarks = check_rows(args, load_benchmarks(args), processor)
found = {"looked": looked, "hash": data_hash(args, benchmarks), "rows": [len(bench.items) for bench in benchmarks]}
(out / f"{args.process_index}.json").write_text(json.dumps(found))
sys.exit(run.main(["--config", sys.argv[3]]))
