"""``dmkd evaluate``"""

import json
from typing import TYPE_CHECKING

import click

from ..completion import classifiers, files
from ..display import make_display, percent, print_facts, print_table
from ..options import device_option, endpoint_option, json_option, teacher_prompt_option

if TYPE_CHECKING:
    from dmkd.classifiers.evaluate import Evaluation

MOST_CLASSES = 20  # rows of the table


@click.command("evaluate", short_help="Measure a classifier on labelled images.")
@click.argument("model", shell_complete=classifiers)
@click.option(
    "--data",
    shell_complete=files,
    required=True,
    metavar="DATA",
    help="A folder of class folders, WebDataset tars, a store, or digits.",
)
@click.option(
    "--data-workers",
    type=click.IntRange(min=0),
    metavar="N",
    help="Threads that decode images of folders and tars. Default: one a core, at most 8.",
)
@click.option(
    "--real",
    is_flag=False,
    flag_value="timm",
    shell_complete=files,
    metavar="[FILE]",
    help="Also by the ReaL labels of ImageNet's validation images: those that come with timm, or a real.json.",
)
@click.option(
    "--class-names",
    shell_complete=files,
    metavar="FILE",
    help="For clip:ID: the classes, one name a line, or imagenet. Default: those of the data.",
)
@teacher_prompt_option
@endpoint_option
@device_option
@json_option
def command(
    model: str,
    data: str,
    data_workers: int | None,
    real: str | None,
    class_names: str | None,
    teacher_prompt: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Measure a student, or any classifier, on labelled images: top-1, top-5, calibration, each class, confusions.

    MODEL is a folder that train-student or export-student wrote, a timm model, or any that dmkd teachers lists. Class folders are
    called by WordNet id, class name or class id; those of classes that it does not know are left out.

    \b
    Examples:
      dmkd evaluate students/imnet-resnet18-resnet34.tv_in1k/student --data /data/imagenet/val
      dmkd evaluate students/digits-test_efficientnet-digits-resnet/student --data digits
      dmkd evaluate resnet18.tv_in1k --data imnet.zarr
      dmkd evaluate my-resnet18 --data /data/imagenet/val --real
      dmkd evaluate clip:openai/clip-vit-base-patch32 --data /data/imagenet/val --teacher-prompt imagenet
    """
    from dmkd.classifiers.sources import parse_classifier
    from dmkd.formats.find import check_data
    from dmkd.recipes.zero_shot import parse_teacher_prompts
    from dmkd.stores import UsageError

    of_words = parse_classifier(model).kind.of_words
    check_data(data)
    templates = parse_teacher_prompts(teacher_prompt) or None
    if not of_words and (templates or class_names):
        raise UsageError(
            f"{model} has classes of its own: leave --class-names and --teacher-prompt out, they are for clip:ID."
        )

    from dmkd.classifiers.classes_of_data import classes_of_data
    from dmkd.classifiers.evaluate import Evaluation, predict
    from dmkd.classifiers.evaluation_data import list_evaluation
    from dmkd.classifiers.load import load_classifier
    from dmkd.classifiers.real_labels import read_real_labels, real_top1
    from dmkd.recipes.class_list import ClassList
    from dmkd.recipes.class_names import class_names_from
    from dmkd.recipes.zero_shot import class_prompts
    from dmkd.runtime.devices import choose_device

    right = read_real_labels(real) if real is not None else None
    prompts = None
    if of_words:
        classes = ClassList(class_names_from(class_names)) if class_names else classes_of_data(data)
        prompts = class_prompts(classes, templates, f"{class_names or data} has")
    classifier = load_classifier(model, device=choose_device(device), prompts=prompts)
    names = classifier.class_names or [str(i) for i in range(classifier.num_classes)]
    listed = list_evaluation(data, classifier, workers=data_workers)
    for sentence in listed.notices:
        make_display().notice(sentence)
    predictions = predict(classifier, listed.read(range(len(listed.sizes))))
    evaluation, more = Evaluation.of(predictions, classifier.num_classes), {}
    if right is not None:
        more["real_top1"], more["real_images"] = real_top1(predictions, listed.names, classifier, right)
    if as_json:
        more["calibration_error"] = predictions.calibration_error
        click.echo(json.dumps({"model": model, "data": data, **evaluation.to_json(names), **more}))
        return
    print_facts(
        f"{model} on {data}",
        [
            ("images", f"{evaluation.num_images:,}"),
            ("top-1", percent(evaluation.top1)),
            ("top-5", percent(evaluation.top5)),
            *([("ReaL", f"{percent(more['real_top1'])} of {more['real_images']:,} images")] if more else []),
            ("calibration", f"expected error {predictions.calibration_error:.3f}"),
        ],
    )
    title = "Weakest classes" if len(names) > MOST_CLASSES else "Classes, weakest first"
    print_table(title, ["class", "images", "top-1", "mostly taken for"], class_rows(evaluation, names)[:MOST_CLASSES])


def class_rows(evaluation: "Evaluation", names: list[str]) -> list[list[str]]:
    """Class, images, top-1 and the class it was mostly mistaken for; the weakest class first."""
    rows = []
    for i in sorted(range(len(names)), key=lambda i: evaluation.per_class[i]):
        row = evaluation.confusion[i]
        mistakes = {j: int(count) for j, count in enumerate(row) if j != i and count}
        most = max(mistakes, key=lambda j: mistakes[j]) if mistakes else None
        if row.sum():
            mostly = f"{names[most]} ({mistakes[most]})" if most is not None else ""
            rows.append([names[i], f"{row.sum():,}", percent(evaluation.per_class[i]), mostly])
    return rows
