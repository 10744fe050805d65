"""Generates the Python code of every .proto file of the project, beside it.

    python scripts/generate_protos.py [--output FOLDER]

For each `protos/dabbawala/v1/x.proto` four files come out: `x_pb2.py` and `x_pb2.pyi` (messages),
`x_pb2_grpc.py` and `x_pb2_grpc.pyi` (stubs and servicers). The .pyi are those of mypy-protobuf:
protoc's own do not pass mypy --strict. All are committed, so that nobody needs protoc to run
Dabbawala; tests/unit/protos/test_generated.py fails when they are not what this script makes.
"""

import argparse
import sys
from importlib.resources import files
from pathlib import Path

from google.rpc import status_pb2
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(output: Path) -> list[Path]:
    """Writes the code below `output`, in the folders of the sources; returns these, relative.

    The include path is the root of the project: an import reads `protos/dabbawala/v1/x.proto`, and
    so the generated imports are those of the package.
    """
    sources = sorted(path.relative_to(ROOT) for path in (ROOT / "protos").rglob("*.proto"))
    tools = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"-I{ROOT}",
        f"-I{files('grpc_tools') / '_proto'}",  # google/protobuf/*.proto
        f"-I{Path(status_pb2.__file__).parent.parent.parent}",  # google/rpc/*.proto
        f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
        f"--python_out={output}",
        f"--mypy_out=quiet:{output}",
        f"--grpc_python_out={output}",
        f"--mypy_grpc_out=quiet:{output}",
        *map(str, sources),
    ]
    if status := protoc.main(arguments):
        raise SystemExit(f"protos: protoc failed ({status}); its message above names the line")
    return sources


def main() -> None:
    parser = argparse.ArgumentParser(description="Generates the Python code of protos/**/*.proto.")
    parser.add_argument("--output", type=Path, default=ROOT, help="the folder to write to")
    for source in generate(parser.parse_args().output):
        print(f"protos: {source}")


if __name__ == "__main__":
    main()
