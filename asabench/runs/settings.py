"""What decides a run's answers, and the id that is made of it.

`RunSettings` are made in one place, `harness.evaluation.plan`, written as JSON into `manifest.json`, and read from
there by whoever judges, compares or submits the run.
"""

from __future__ import annotations

import json
from typing import Any

from asabench.core.protocol import Protocol
from asabench.core.records import sha256_hex
from asabench.core.schema import Record


class RunSettings(Record):
    """Everything that decides what a run's responses are; to resume a run, all of it must be equal.

    `chat_template` and `prompts` are the first 16 hex digits of SHA-256 digests: of the template (None where the
    protocol uses none), and of what the prompts say (`asabench.core.prompts.PromptSet.digest`). `attacks` are names as
    they stand in tables. `layers` are 0-based decoder blocks. `more_stop_tokens`: those that end an answer here and
    would not in transformers' `generate`; only there where there are some. `suite`: the id of the suite that searched
    for the answers to give (`asabench.core.suite`), whose members `attacks` are; only there where one did.
    """

    model: str
    revision: str
    dtype: str
    chat_template: str | None
    protocol: Protocol
    attacks: tuple[str, ...]
    layers: tuple[int, ...]
    prompts: str
    prompt_count: int
    more_stop_tokens: tuple[int, ...] = ()
    suite: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As the run has it on disk: fields of the protocol that came later than the run stay out, so that its id
        remains its id."""
        dumped = self.model_dump(mode="json", exclude_unset=True)
        if not self.more_stop_tokens:
            dumped.pop("more_stop_tokens", None)
        if self.suite is None:
            dumped.pop("suite", None)
        return dumped | {"protocol": self.protocol.as_json(exclude_unset=True)}

    @property
    def id(self) -> str:
        """The name of a run: a hash of its settings. Two people's runs of one thing have one id."""
        return sha256_hex(json.dumps(self.as_json(), sort_keys=True))[:16]


def in_full(protocol: Protocol) -> Protocol:
    """The same protocol with every field set, as the settings of a new run name it: its id is of all of them."""
    return Protocol(**dict(protocol))
