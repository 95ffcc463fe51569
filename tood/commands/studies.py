"""What commands say of the study that they are about."""

from tood.ledger.studies import called_studies, studies_with
from tood.study.plan import Plan


def study_header(plan: Plan, name: str | None, run: str | None = None) -> str:
    """Which study a command is about, and how it was chosen.

    Args:
        plan: the study.
        name: that the user gave; None: the study that was called last.
        run: id of a run that the command is about; other studies that have it are named.
    """
    called = list(called_studies())
    header = f"study {plan.name}"
    if plan.name != plan.scale.name:
        header += f" (scale {plan.scale.name})"
    if name is None:
        header += ", the last that was called" if called else ", as none was called here yet"
    others = studies_with(run) if run else called if name is None else []
    if others := [other for other in others if other != plan.name]:
        header += f"; {f'{run} is also in' if run else 'others are'} {', '.join(others)} (--name)"
    return header
