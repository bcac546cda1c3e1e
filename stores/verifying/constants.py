"""Whether what a codec needs to decode is sound."""

import numpy as np

from .. import layout
from ..errors import first_line
from ..sets import LabelSet
from ..trees.tree import Tree
from .finding import ERROR, Finding


def read_constants(tree: Tree, label_set: LabelSet) -> tuple[dict[str, np.ndarray], list[Finding]]:
    """A label set's constants that can be read and are finite, by name; and what is wrong with the others."""
    constants: dict[str, np.ndarray] = {}
    findings = []
    for part in label_set.codec.constants:
        where = f"{label_set.node}/{layout.CONSTANTS}/{part}"
        try:
            values = tree.read_constant(where)
        except (ValueError, RuntimeError, KeyError) as error:
            findings.append(Finding(ERROR, where, f"The constant is damaged ({first_line(error)}).", repairable=True))
            continue
        except OSError as error:
            findings.append(Finding(ERROR, where, f"The constant can't be read ({first_line(error)})."))
            continue
        if np.isfinite(values).all():
            constants[part] = values
        else:
            findings.append(Finding(ERROR, where, "The constant holds NaN or infinite values.", repairable=True))
    return constants, findings
