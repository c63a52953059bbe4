"""`wavalign validate`: is this recipe right?"""

from .console import Format, output_format, say, say_json
from .options import FormatOption, RecipeArgument, SetOption, compiled


def validate(recipe: RecipeArgument, set_: SetOption = None, format_: FormatOption = Format.TEXT) -> None:
    """Check a recipe and print every problem at once."""
    output_format.set(format_)
    plan = compiled(recipe, set_)
    if format_ is Format.JSON:
        stages = [{"name": stage.name, "type": stage.stage.type, "steps": stage.steps} for stage in plan.stages]
        warnings = [each.model_dump() for stage in plan.stages for each in stage.warnings]
        content = {"ok": True, "name": plan.name, "fingerprint": plan.fingerprint, "stages": stages}
        say_json({**content, "warnings": warnings})
    elif format_ is Format.TEXT:
        count = f"{len(plan.stages)} stage{'s' if len(plan.stages) != 1 else ''}"
        say(f"{recipe}: valid, {count}, {plan.total_steps} steps, plan {plan.fingerprint}")
        for each in (each for stage in plan.stages for each in stage.warnings):
            say(f"{each.where}  {each.path}  warning: {each.message}\n  hint: {each.hint}")
