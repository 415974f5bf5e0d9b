"""Run the Python blocks of a document in one process, as the cells of a notebook.

The program that `tests.documents` starts with the reader's Python; it needs only the standard library. It reads cells
from one file descriptor, as lines of JSON, and answers each on another: None, or a traceback.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import types


def main(requests: int, answers: int) -> None:
    # As for a script in the reader's folder, and for code that looks its own module up.
    sys.path[0] = ""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    with os.fdopen(requests) as lines, os.fdopen(answers, "w") as out:
        for line in lines:
            cell = json.loads(line)
            os.environ.clear()
            os.environ.update(cell["environment"])
            # A check sees the names of the document, and adds none.
            namespace = dict(vars(module)) if cell["is_check"] else vars(module)
            problem = None
            try:
                source = "\n" * cell["line"] + cell["code"]
                exec(compile(source, cell["path"], "exec", dont_inherit=True), namespace)
            except BaseException:  # noqa: BLE001
                problem = traceback.format_exc()
            sys.stdout.flush()
            out.write(json.dumps(problem) + "\n")
            out.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
