"""`python -m ray_zerocopy`: image files, and the models of a running cluster, with names or loaded."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ray_zerocopy import inspection


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: those of the command line; None: this process's.

    Returns:
        The exit status: 0; 1 if there is no cluster, or no such model or image file, which is said on standard error;
        or if the file is damaged.
    """
    parser = argparse.ArgumentParser(prog="python -m ray_zerocopy", description=__doc__)
    parser.add_argument("--address", default="auto", help="of the cluster; default: the one that runs on this machine")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="lists the models that have names")
    free = commands.add_parser("free", help="forgets a model's name; loaded models stay valid")
    free.add_argument("name", metavar="NAME")
    free.add_argument("--namespace", help="needed where several namespaces have the name")
    top = commands.add_parser(
        "top", help="shows what the processes of the cluster have loaded, and what it costs; on a terminal, live"
    )
    top.add_argument("--interval", type=_seconds, default=2.0, metavar="SECONDS", help="on a terminal; default: 2")
    top.add_argument("--json", action="store_true", help="prints it once, as JSON, in bytes")
    for command, text in (
        ("inspect", "shows what is in an image file"),
        ("verify", "compares all of an image file with its digests"),
    ):
        commands.add_parser(command, help=text).add_argument("file", metavar="FILE")
    given = parser.parse_args(arguments)
    return _of_file(given.command, given.file) if "file" in given else _of_cluster(given)


def _of_file(command: str, path: str) -> int:
    try:
        if command == "inspect":
            print(inspection.described(path))
            return 0
        damages = inspection.damages(path)
    except (OSError, ValueError) as error:
        print(inspection.printable(str(error)), file=sys.stderr)
        return 1
    print("\n".join(damages) or inspection.printable(f"{path} is sound."))
    return 1 if damages else 0


def _of_cluster(given: argparse.Namespace) -> int:
    import ray
    from ray.exceptions import RayError

    try:
        ray.init(address=given.address, logging_level=logging.ERROR, log_to_driver=False)
        if given.command == "top":
            from ray_zerocopy.monitoring.top import top

            top(given.interval, given.json)
        else:
            print(_list() if given.command == "list" else _free(given.name, given.namespace))
    except (ConnectionError, ValueError, RayError) as error:
        print("\n".join(map(inspection.printable, str(error).splitlines())), file=sys.stderr)
        return 1
    return 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < float("inf"):
        raise ValueError(text)
    return seconds


def _list() -> str:
    from ray_zerocopy.transport import keeper

    rows = [("NAME", "NAMESPACE", "KIND", "LIFETIME", "MB", "CREATED (UTC)", "SHARES WITH")]
    for model in keeper.list_models():
        rows.append(
            (
                model.name,
                model.namespace,
                model.kind,
                model.lifetime or "-",
                f"{model.nbytes / 1e6:.1f}",
                f"{model.created:%Y-%m-%d %H:%M:%S}",
                ", ".join(model.shares_with) or "-",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(inspection.printable(line.rstrip()) for line in lines)


def _free(name: str, namespace: str | None) -> str:
    from ray_zerocopy.transport import keeper

    if namespace is None:
        namespaces = [model.namespace for model in keeper.list_models() if model.name == name]
        if len(namespaces) > 1:
            raise ValueError(f"Several namespaces have a model {name!r}: give --namespace, one of {namespaces}.")
        namespace = next(iter(namespaces), None)
    freed = keeper.ModelName.here(name, namespace)
    keeper.free(freed)
    return f"freed {freed}"


if __name__ == "__main__":
    sys.exit(main())
