"""Pictures of what the benchmarks found: SVG files made of their JSON results, one for each result that is there.

latency.svg        latency against offered load
cpu.svg            CPU per request of every server compared, the kernel's part and the process's
stages.svg         instructions per request by stage, one stacked bar for each payload
connections.svg    CPU per request against connections, page and fsync
workers.svg        throughput against workers
drill.svg          an outage second by second: what is accepted, what is shipped, what waits
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.results import FOLDER

Table = Mapping[str, Any]
_WIDTH, _HEIGHT = 8.0, 4.5


def main(argv: Sequence[str]) -> int:
    """Draw what there is. 1 when there is nothing, 2 when matplotlib is missing."""
    parser = argparse.ArgumentParser(prog="python -m bench plot", description=__doc__.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="DIR", help="where the results are")
    parser.add_argument("--to", type=Path, default=Path("docs/plots"), metavar="DIR", help="where pictures go")
    args = parser.parse_args(argv)
    try:
        import matplotlib as mpl
    except ImportError:
        print('bench plot: expected matplotlib: pip install "capture-edge[bench]"', file=sys.stderr)
        return 2
    mpl.use("svg")
    # The same result, the same file.
    mpl.rcParams["svg.hashsalt"] = "edge"
    drawn = 0
    for benchmark, (name, draw) in PICTURES.items():
        path = args.results / f"{benchmark}.json"
        if path.exists():
            args.to.mkdir(parents=True, exist_ok=True)
            _draw(draw, json.loads(path.read_text()), args.to / name)
            print(args.to / name)
            drawn += 1
    if not drawn:
        print(f"bench plot: expected results in {args.results}, found none: run `make bench` first", file=sys.stderr)
        return 1
    return 0


def _draw(draw: Callable[[Any, Mapping[str, Any]], None], result: Mapping[str, Any], path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    draw(axes, result)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _latency(axes: Any, result: Mapping[str, Any]) -> None:
    table = result["tables"][0]
    for server in dict.fromkeys(row["server"] for row in table["rows"]):
        rows = sorted((row for row in table["rows"] if row["server"] == server), key=lambda row: row["share"])
        shares = [row["share"] * 100 for row in rows]
        for column, style in (("p50 ms", "--"), ("p99 ms", "-")):
            axes.plot(shares, [row[column] for row in rows], style, marker="o", label=f"{server}, {column[:-3]}")
    own = result["tables"][1]["rows"][0]["p99 ms"]
    axes.axhline(own, color="grey", linewidth=1, linestyle=":", label="fdatasync alone, p99")
    axes.set(xlabel="offered load, % of the server's capacity", ylabel="ms from when due", yscale="log")
    axes.set_title("Latency against offered load, open loop")
    axes.legend(fontsize="small")


def _cpu(axes: Any, result: Mapping[str, Any]) -> None:
    table = result["tables"][0]
    rows = [row for row in table["rows"] if row.get("µs/request") is not None]
    rows.sort(key=lambda row: row["µs/request"], reverse=True)
    servers = [row["server"] for row in rows]
    whole = [row["µs/request"] for row in rows]
    kernel = [row["µs/request"] * row["kernel"] for row in rows]
    axes.barh(servers, kernel, color="tab:grey", label="in the kernel")
    process = [us - part for us, part in zip(whole, kernel, strict=True)]
    bars = axes.barh(servers, process, left=kernel, color="tab:blue", label="in the process")
    axes.bar_label(bars, [f"{us:.1f}" for us in whole], padding=3)
    axes.margins(x=0.1)
    axes.set(xlabel="CPU us per request, median", title=table["title"])
    axes.legend()


def _stages(axes: Any, result: Mapping[str, Any]) -> None:
    table = result["tables"][0]
    payloads = [column for column in table["columns"] if column != "stage" and not column.endswith(" share")]
    *stages, whole = table["rows"]
    ends = dict.fromkeys(payloads, 0.0)
    for row in stages:
        bars = axes.barh(payloads, [row[name] for name in payloads], left=list(ends.values()), label=row["stage"])
        shares = [row[f"{name} share"] for name in payloads]
        # A smaller part has no room for its share.
        axes.bar_label(bars, [f"{share:.0%}" if share > 0.04 else "" for share in shares], label_type="center")
        ends = {name: end + row[name] for name, end in ends.items()}
    for at, name in enumerate(payloads):
        axes.text(whole[name], at, f" {whole[name]:,.0f}", verticalalignment="center")
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="instructions per request", ylabel="payload")
    axes.set_title("CPU per request by stage, in instructions\nthe process alone: kernel and event loop left out")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, fontsize="small")


def _connections(axes: Any, result: Mapping[str, Any]) -> None:
    table = result["tables"][1]
    counts = [column for column in table["columns"] if column != "server"]
    for row in table["rows"]:
        axes.plot(
            [int(count.replace(",", "")) for count in counts],
            [row[count] for count in counts],
            marker="o",
            label=row["server"],
        )
    axes.set(xlabel="busy connections", ylabel="CPU us per request", xscale="log", ylim=(0, None))
    axes.set_title("Every answer after the write (page) or after fdatasync (fsync)")
    axes.legend()


def _workers(axes: Any, result: Mapping[str, Any]) -> None:
    rows = result["tables"][0]["rows"]
    column = "capacity on as many cores, requests/s"
    axes.plot([row["workers"] for row in rows], [row[column] for row in rows], marker="o", label="measured")
    axes.plot(
        [row["workers"] for row in rows],
        [row["workers"] * rows[0][column] for row in rows],
        ":",
        color="grey",
        label="linear",
    )
    axes.set(xlabel="workers, a core each", ylabel="requests/s", ylim=(0, None), title="Throughput against workers")
    axes.legend()


def _drill(axes: Any, result: Mapping[str, Any]) -> None:
    table = result["tables"][0]
    rows = table["rows"]
    seconds = [row["second"] for row in rows]
    for column in ("accepted/s", "shipped/s"):
        axes.plot(seconds, [row[column] for row in rows], marker=".", label=column)
    axes.plot(seconds, [row["waiting"] for row in rows], color="grey", linewidth=1, label="waiting, events")
    for row in rows:
        if row["destination"] != "takes":
            axes.axvspan(row["second"] - 1, row["second"], color="tab:red", alpha=0.1, linewidth=0)
    axes.set(xlabel="s; the destination refuses where it is red", ylabel="events", ylim=(0, None))
    axes.set_title("An outage")
    axes.legend()


PICTURES: Final[dict[str, tuple[str, Callable[[Any, Mapping[str, Any]], None]]]] = {
    "latency": ("latency.svg", _latency),
    "compare": ("cpu.svg", _cpu),
    "stages": ("stages.svg", _stages),
    "connections": ("connections.svg", _connections),
    "workers": ("workers.svg", _workers),
    "drill": ("drill.svg", _drill),
}
