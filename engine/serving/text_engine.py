"""A language model served by vLLM: texts in, texts out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from engine.checkpoints.text_folder import CONFIG, check_text_folder, text_fingerprint
from engine.errors import CheckpointError, EngineError
from engine.machine.precision import serving_dtype
from engine.records import TextPrompt
from engine.samplers.seeds import sample_seed
from engine.serving import launch
from engine.serving.arguments import GIB, Card, device_arguments

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams


class TextEngine:
    """Serves one folder; not thread-safe. vLLM starts with the first prompt.

    Only safetensors are read, and no code of the folder is run. `fingerprint` and `reserved` need no vLLM,
    and can be read after `close`.

    Raises (constructor):
        CheckpointError: files are missing or unreadable, or the weights are no safetensors.
        EngineError: `dtype` is not known.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "auto",
        max_sequences: int = 32,
        kv_cache_gib: float = 1.0,
        context: int = 4096,
    ) -> None:
        """`kv_cache_gib` is the memory for keys and values, and must hold one text of full length.

        `context` bounds a prompt and its text together, in tokens, where the model itself can do more.
        """
        check_text_folder(folder)
        self._precision = serving_dtype(dtype)
        self._tokenizer = _tokenizer(folder)
        self._ends = _ends(folder)
        self._context = min(context, _positions(folder) or context)
        self._fingerprint = f"{text_fingerprint(folder)}-{self._precision}-{self._context}"
        self._folder, self._max_sequences, self._kv_cache_gib = folder, max_sequences, kv_cache_gib
        self._refusal = ""
        self._llm: LLM | None = None

    @property
    def fingerprint(self) -> str:
        """Digest of the folder's files, the type of the arithmetic, and the context."""
        return self._fingerprint

    @property
    def reserved(self) -> tuple[str, ...]:
        """The texts that the tokenizer takes for control tokens."""
        added = self._tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special}
        return tuple(sorted(special | set(self._tokenizer.all_special_tokens)))

    def generate(
        self,
        prompts: Sequence[TextPrompt],
        max_tokens: int,
        stop: Sequence[str] = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[str]:
        """What follows each prompt, up to `max_tokens` tokens or the first text of `stop`, which is cut off.

        Greedy at temperature 0; else seed and prompt decide every draw. A prompt that leaves no room in the
        context gives an empty text, one that leaves little room a shorter one.

        Raises:
            EngineError: vLLM could not start or failed, or the engine is closed.
        """
        if self._refusal:
            raise EngineError(self._refusal)
        asked = [self._ids(prompt) for prompt in prompts]
        rooms = [min(max_tokens, self._context - len(ids)) for ids in asked]
        fitting = [index for index, room in enumerate(rooms) if room > 0 and asked[index]]
        texts = [""] * len(prompts)
        if not fitting:
            return texts
        # First, because vLLM must find our environment when it is imported.
        llm = self._llm = self._llm or launch.launched(self._folder, self._start, self._precision)
        params = [self._sampling(prompts[index], rooms[index], stop, temperature, seed) for index in fitting]
        outputs = self._outputs(llm, [asked[index] for index in fitting], params)
        for index, output in zip(fitting, outputs, strict=True):
            texts[index] = output.outputs[0].text
        return texts

    def close(self) -> None:
        """Ends vLLM; safe to call again."""
        self._refusal = "the text engine is closed; open a new one"
        if self._llm is not None:
            llm, self._llm = self._llm, None
            launch.stop(llm)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _outputs(self, llm: LLM, asked: Sequence[list[int]], params: list[SamplingParams]) -> list[Any]:
        with launch.translated("vLLM failed while generating"):
            try:
                prompts = [{"prompt_token_ids": ids} for ids in asked]
                return list(llm.generate(cast(Any, prompts), params, use_tqdm=False))
            finally:
                # Requests left over from a failed call would answer the next one.
                if llm.llm_engine.has_unfinished_requests():
                    self._refusal = "an earlier call was cut short inside vLLM; open a new text engine"

    def _start(self, card: Card | None) -> LLM:
        from vllm import LLM

        weights = sum(path.stat().st_size for path in self._folder.glob("*.safetensors"))
        return LLM(
            str(self._folder),
            tokenizer=str(self._folder),
            dtype=cast(Any, self._precision),
            trust_remote_code=False,
            load_format="safetensors",
            generation_config="vllm",
            max_model_len=self._context,
            max_num_seqs=self._max_sequences,
            # The examples that stand before every caption are computed once.
            enable_prefix_caching=True,
            kv_cache_memory_bytes=int(self._kv_cache_gib * GIB),
            use_tqdm_on_load=False,
            **device_arguments(card, weights / GIB, self._kv_cache_gib),
        )

    def _ids(self, prompt: TextPrompt) -> list[int]:
        if prompt.chat and self._tokenizer.chat_template:
            messages = [{"role": "user", "content": prompt.text}]
            with launch.translated("the model's chat template failed"):
                return list(
                    self._tokenizer.apply_chat_template(
                        messages, add_generation_prompt=True, tokenize=True, return_dict=False
                    )
                )
        return list(self._tokenizer(prompt.text).input_ids)

    def _sampling(
        self, prompt: TextPrompt, room: int, stop: Sequence[str], temperature: float, seed: int
    ) -> SamplingParams:
        from vllm import SamplingParams

        with launch.translated("vLLM refused the sampling settings"):
            return SamplingParams(
                temperature=temperature,
                seed=sample_seed(seed, prompt.text, "text", 0) if temperature else None,
                max_tokens=room,
                stop=list(stop),
                stop_token_ids=self._ends,
            )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises all kinds
        raise CheckpointError(f"{folder}: the tokenizer cannot be read: {_first_line(error)}") from error


def _positions(folder: Path) -> int:
    """How many tokens the model can see; 0 where it does not say."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises all kinds
        raise CheckpointError(f"{folder / CONFIG}: cannot be served: {_first_line(error)}") from error
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 0)


def _ends(folder: Path) -> list[int]:
    """The tokens that end a text, besides the tokenizer's own: chat models name theirs in a file."""
    path = folder / "generation_config.json"
    try:
        ends = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else []
        return [ends] if isinstance(ends, int) else [int(end) for end in ends or []]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}; download it again") from error


def _first_line(error: Exception) -> str:
    """What a library says, without its advice to run the folder's code."""
    return next(iter(str(error).splitlines()), type(error).__name__)
