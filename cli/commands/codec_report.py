"""``dmkd codec-report``"""

import json
from pathlib import Path
from typing import Any

import click

from ..completion import VIEWS, classifiers, words
from ..display import print_table
from ..options import check_plot_file, codec_examples, device_option, existing_store, json_option, store_option

COLUMNS = (
    "codec", "bytes", "on disk", "TV T=1", "TV T=4", "TV T=10", "TV T=20", "KL T=1", "KL T=10", "top-1", "enc/s", "dec/s"
)  # fmt: skip


@click.command("codec-report", short_help="What each label codec costs and loses.")
@store_option
@click.option(
    "--teacher",
    shell_complete=classifiers,
    required=True,
    metavar="NAME",
    help="Whose logits; any name that dmkd label takes.",
)
@click.option(
    "--codec",
    "codecs",
    shell_complete=words(later=codec_examples),
    multiple=True,
    metavar="CODEC",
    help="Codec to measure, as for dmkd label; may be repeated. Default: all, in usual sizes.",
)
@click.option(
    "--views",
    shell_complete=words(*VIEWS),
    metavar="POLICY",
    help="Views to label, as for dmkd label. Default: the store's.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw bytes against error (.png, .svg, .pdf)."
)
@device_option
@json_option
def command(
    store: str | None,
    teacher: str,
    codecs: tuple[str, ...],
    views: str | None,
    plot: Path | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Measure every label codec on a teacher's real logits of a store's images; nothing is written to the store.

    Bytes a view before and after the chunk's compression; total variation (TV) and KL between the exact and the stored
    softmax at temperatures 1, 4, 10 and 20; how often both name the same class; views encoded and decoded a second.

    \b
    Examples:
      dmkd codec-report --teacher resnet34.tv_in1k
      dmkd codec-report --store digits.zarr --teacher digits-resnet --plot codecs.png
      dmkd codec-report --teacher resnet34.tv_in1k --codec features --codec klt:1 --json
    """
    from dmkd.making.asked import LabelOptions, check_labels

    path = existing_store(store)
    for codec in codecs or (None,):
        check_labels(LabelOptions((teacher,), views, codec=codec))
    if plot is not None:
        check_plot_file(plot)

    from dmkd.codec_report import codec_report
    from dmkd.runtime.devices import choose_device
    from dmkd.stores import open_store

    from ..display import make_display

    opened = open_store(path)
    report = codec_report(opened, teacher, codecs, views=views, device=choose_device(device), display=make_display())
    if plot is not None:
        draw(report, plot)
    if as_json:
        click.echo(json.dumps(report))
        return
    fit, measured = report["fitted_on_views"], report["measured_on_views"]
    print_table(
        f"{teacher} on {opened.path}: {measured:,} views, fitted on {fit:,} others",
        COLUMNS,
        [_row(name, numbers) for name, numbers in report["codecs"].items()],
        spare=("KL T=10", "TV T=20", "enc/s", "bytes", "KL T=1"),
    )


def _row(name: str, numbers: dict[str, Any]) -> list[str]:
    return [
        name,
        f"{numbers['bytes_per_view_raw']:.0f}",
        f"{numbers['bytes_per_view']:.1f}",
        *(f"{numbers['tv'][t]:.4f}" for t in ("1", "4", "10", "20")),
        *(f"{numbers['kl'][t]:.1e}" for t in ("1", "10")),
        f"{numbers['top1_agreement']:.1%}",
        f"{numbers['encode_views_per_s']:,.0f}",
        f"{numbers['decode_views_per_s']:,.0f}",
    ]


def draw(report: dict[str, Any], path: Path) -> None:
    """Rate against distortion: bytes a view on disk against total variation, a line a family, a panel a temperature."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    temperatures = ("1", "4", "10", "20")
    figure = Figure(figsize=(14, 4), layout="constrained")
    panels = figure.subplots(1, len(temperatures), sharey=True)
    families: dict[str, list[str]] = {}
    for name in report["codecs"]:
        families.setdefault(name.split(":")[0], []).append(name)
    for panel, temperature in zip(panels, temperatures, strict=True):
        for family, names in families.items():
            points = sorted(
                (report["codecs"][n]["bytes_per_view"], report["codecs"][n]["tv"][temperature]) for n in names
            )
            panel.plot(*zip(*points, strict=True), "o-", label=family)
        panel.set(xscale="log", yscale="log", title=f"T = {temperature}", xlabel="bytes a view, on disk")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(ScalarFormatter())
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("total variation to the exact softmax")
    panels[-1].legend()
    figure.suptitle(f"{report['teacher']['name']}, {report['measured_on_views']:,} views")
    figure.savefig(path, dpi=120)
