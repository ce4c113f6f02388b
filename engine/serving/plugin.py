"""Entry point `vllm.general_plugins`: makes Show-o known to transformers and to vLLM, in every process."""

from __future__ import annotations

ARCHITECTURE = "ShowoForUnifiedGeneration"


def register() -> None:
    """Registers the configuration and the model class; safe to call again."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from engine.models.showo_config import ShowoConfig

    AutoConfig.register(ShowoConfig.model_type, ShowoConfig, exist_ok=True)
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        # The class, not its name: vLLM inspects a named class in a process of its own, 10 s at each start.
        from engine.serving.model import ShowoForUnifiedGeneration

        ModelRegistry.register_model(ARCHITECTURE, ShowoForUnifiedGeneration)


def registered() -> bool:
    """Whether both registrations hold."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from vllm import ModelRegistry

    from engine.models.showo_config import ShowoConfig

    return ShowoConfig.model_type in CONFIG_MAPPING and ARCHITECTURE in ModelRegistry.get_supported_archs()
