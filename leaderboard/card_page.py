"""The page of one model's card: a single file that needs no network and no script. Pure functions."""

from __future__ import annotations

import base64
import functools
import hashlib

from jinja2 import Environment
from markupsafe import Markup

from asabench.card.records import ModelCard, Resistance
from asabench.card.words import headlines, not_measured
from asabench.core.estimate import Change
from asabench.core.row import AttackResult
from asabench.core.text import eps50_text
from leaderboard.charts.card_svg import loss_svg, rates_svg, refusals_svg
from leaderboard.charts.svg import lasr_svg, worst_by_attack
from leaderboard.templating import page_environment
from leaderboard.text import NONE, format_estimate, format_number, number_ranges, short_revision

STYLES = ("style.css", "card.css")


@functools.cache
def _environment() -> Environment:
    filters = {
        "estimate": format_estimate,
        "number": format_number,
        "eps50": eps50_text,
        "ranges": number_ranges,
        "short_revision": short_revision,
        "lasr_svg": lasr_svg,
        "rates_svg": rates_svg,
        "loss_svg": loss_svg,
        "refusals_svg": refusals_svg,
        "worst_by_attack": lambda resistance: worst_by_attack(resistance.row),
        "of_base": _of_base,
        "changes": _changes,
    }
    return page_environment(filters, {"NONE": NONE})


def _of_base(result: AttackResult, resistance: Resistance) -> AttackResult | None:
    """The base's result under the same attack at the same dose."""
    results = () if resistance.base is None else resistance.base.results
    return next((each for each in results if (each.attack, each.dose) == (result.attack, result.dose)), None)


def _changes(result: AttackResult, resistance: Resistance) -> tuple[Change | None, Change | None, float | None]:
    """(MASR, PASR, p) of a result against the base's."""
    for each in resistance.changes:
        if (each.attack, each.dose) == (result.attack, result.dose):
            return each.masr, each.pasr, each.p_value
    return None, None, None


def _style() -> str:
    environment = _environment()
    assert environment.loader is not None
    return "\n".join(environment.loader.get_source(environment, name)[0] for name in STYLES)


def render_card(card: ModelCard) -> str:
    """The whole page. Names came from strangers and are escaped; the card holds no text of a model."""
    style = _style()
    # The only style that the page's policy lets in
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    page = _environment().get_template("card.html.j2")
    return page.render(
        card=card,
        headlines=headlines(card),
        lacks=not_measured(card),
        style=Markup(style),
        style_digest=digest,
    ).lstrip()
