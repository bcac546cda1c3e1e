"""``dmkd verify``"""

import json
from typing import TYPE_CHECKING

import click

from dmkd.stores.errors import UsageError

from ..completion import files
from ..options import device_option, json_option, store_option

if TYPE_CHECKING:
    from dmkd.stores.verifying.finding import Finding
    from dmkd.verify import Report

FINDINGS_SHOWN = 40  # of each severity; --json has them all
COLOURS = {"error": "red", "warning": "yellow", "note": None}


@click.command("verify", short_help="Check that a store is sound.")
@click.argument("path", shell_complete=files, required=False, metavar="[STORE]")
@store_option
@click.option("--allow-incomplete", is_flag=True, help="Exit with 0 even if images or labels have not been made yet.")
@click.option("--repair", is_flag=True, help="Delete what is damaged, so that the next run makes it again.")
@click.option(
    "--rerun-teacher",
    type=float,
    metavar="SHARE",
    help="Label this share of the blocks again with each teacher, and compare: 0.01 is one in a hundred.",
)
@click.option(
    "--regenerate", type=float, metavar="SHARE", help="Make the images of this share of the blocks again, and compare."
)
@click.option(
    "--tag", metavar="NAME", help="Compare what a tag covers with the tag (dmkd tag), block by block, and nothing else."
)
@device_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    path: str | None,
    store: str | None,
    allow_incomplete: bool,
    repair: bool,
    rerun_teacher: float | None,
    regenerate: float | None,
    tag: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Read all of a store and report what is wrong with it: damaged chunks, values out of range, parts that do not belong
    together, and what is missing.

    Exit code 0: sound and complete, with or without warnings. 1: damaged, or incomplete: images or labels that were begun are
    missing. --allow-incomplete accepts a store that is unfinished but sound. Nothing is changed without --repair, which
    deletes only what dmkd can make again and exits with 0 once no damage is left; the next run then fills the gaps. Do not
    repair a store while another command is writing to it.

    With --tag the store is compared with what it held when it was tagged: 0 if all of that is there unchanged, whatever was added
    since.

    \b
    Examples:
      dmkd verify imnet.zarr
      dmkd verify imnet.zarr --allow-incomplete
      dmkd verify imnet.zarr --repair
      dmkd verify imnet.zarr --rerun-teacher 0.01 --regenerate 0.001
      dmkd verify imnet.zarr --tag v1
      dmkd verify --store imnet.zarr --json
    """
    from dmkd.verify import verify, verify_against_tag

    from ..display import make_display
    from ..options import existing_store

    if tag is not None:
        if repair or rerun_teacher is not None or regenerate is not None:
            raise UsageError(
                "--tag compares a store with its tag and does nothing else: leave --repair, --rerun-teacher and --regenerate out."
            )
        report = verify_against_tag(existing_store(path or store), tag, make_display())
    else:
        report = verify(
            existing_store(path or store),
            mend=repair,
            rerun_teacher=rerun_teacher,
            regenerate=regenerate,
            device=device,
            display=make_display(),
        )
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        print_report(report)
    if not (report.repaired or (report.sound and (report.complete or allow_incomplete))):
        context.exit(1)


def print_report(report: "Report") -> None:
    """What was read, what was compared, every finding, and what to do."""
    from dmkd.runtime.space import byte_size

    from ..display import duration, print_facts

    rate = report.bytes / max(report.seconds, 1e-9)
    facts = [
        ("read", f"{report.blocks:,} blocks, {report.chunks:,} chunks, {byte_size(report.bytes)}"),
        ("in", f"{duration(report.seconds)}, {byte_size(rate)}/s"),
        ("found", ", ".join(_count(report.counts[kind], kind) for kind in ("error", "warning", "note"))),
    ]
    for name, numbers in (report.rerun_teacher or {}).items():
        if numbers["views"]:
            facts.append(
                (
                    f"teacher of {name}",
                    f"{numbers['views']:,} views: logits differ by {numbers['mean_logit_difference']:.2g} on average, "
                    f"{numbers['max_logit_difference']:.2g} at most; top-1 of {numbers['top1_changed']:.2%}; p(class) by "
                    f"{numbers['max_p_class_difference']:.2g} at most",
                )
            )
    if report.regenerate and report.regenerate["images"]:
        numbers = report.regenerate
        facts.append(
            (
                "generator",
                f"{numbers['images']:,} images: {numbers['share_differing']:.4%} of the values differ, by "
                f"{numbers['max_difference']} grey levels at most",
            )
        )
    if report.tag:
        facts.append(("tag", f"{report.tag.name}, sha256 {report.tag.sha256}"))
    print_facts(f"{report.path}: {_verdict(report)}", facts)
    for kind in COLOURS:
        findings = [finding for finding in report.findings if finding.severity == kind]
        for finding in findings[:FINDINGS_SHOWN]:
            click.echo(_line(finding))
        if len(findings) > FINDINGS_SHOWN:
            click.echo(f"  … and {len(findings) - FINDINGS_SHOWN:,} {kind}s more (--json lists all)")
    _print_repair(report)


def _verdict(report: "Report") -> str:
    if report.tag:
        return "as it was tagged" if report.sound else f"DIFFERS from tag {report.tag.name}"
    if not report.sound:
        return "DAMAGED" if report.complete else "DAMAGED, and incomplete"
    return "sound and complete" if report.complete else "sound, but INCOMPLETE"


def _print_repair(report: "Report") -> None:
    done = report.repair
    if done is None:
        if any(finding.repairable for finding in report.findings):
            click.echo(f"`dmkd verify {report.path} --repair` deletes what is damaged, so that it can be made again.")
        return
    click.echo(f"Deleted {len(done.deleted):,} chunks, swept {done.swept:,} half-written files.")
    for name in done.refitted:
        click.echo(f"Label set {name} begins anew: without its constants no label can be read.")
    for name in dict.fromkeys(done.columns):
        click.echo(f"Numbers of column {name} were deleted: add it again to bring them back (`dmkd columns --add`).")
    for sentence in done.refused[:FINDINGS_SHOWN]:
        click.echo(f"Not repaired: {sentence}")
    if report.advice:
        click.echo(f"Now run `{report.advice}`: it makes what was deleted again.")


def _line(finding: "Finding") -> str:
    severity = click.style(f"  {finding.severity:<7}", fg=COLOURS[finding.severity], bold=finding.severity == "error")
    return f"{severity}  {finding.where}: {finding.sentence}"


def _count(number: int, kind: str) -> str:
    return f"{number:,} {kind}{'' if number == 1 else 's'}"
