"""python -m bench NAME [--json [FILE]]: one benchmark per module, each with `main(arguments)`."""

import argparse
import importlib
import sys

# Names, and the modules that run them. A module is imported only when it is asked for: some need a
# Valkey, some a second process.
BENCHMARKS = {
    "doors": ("bench.doors", "both doors beside Envoy, twemproxy, HAProxy and grpc.aio (D1-D7)"),
    "map": ("bench.map_size", "size of the map and of a change, and how fast all see one (C1, C2)"),
    "grpc-echo": ("bench.grpc_echo", "the gRPC door's engine beside grpc.aio"),
    "linearizable": ("bench.linearizable", "linearizable operations beside tunable ones at QUORUM"),
    "planner": ("bench.planner", "time, balance and data moved of a plan (C3)"),
}


def main() -> int:
    """Runs the benchmark named on the command line; answers its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Dabbawala's benchmarks.",
        epilog="\n".join(f"  {name:8} {what}" for name, (_, what) in BENCHMARKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("benchmark", choices=sorted(BENCHMARKS))
    arguments, rest = parser.parse_known_args()
    module = importlib.import_module(BENCHMARKS[arguments.benchmark][0])
    status: int = module.main(rest)
    return status


if __name__ == "__main__":
    sys.exit(main())
