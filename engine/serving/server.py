"""One running vLLM instance: requests, calls to its workers, caches, and the end of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from engine.errors import EngineError
from engine.metering.counters import Meter
from engine.models.showo_config import ShowoConfig
from engine.serving import launch, sleep

if TYPE_CHECKING:
    from vllm import LLM, SamplingParams


class Server:
    """Owns vLLM. After a call that was cut short inside it, all further ones are refused."""

    def __init__(self, llm: LLM, config: ShowoConfig) -> None:
        """`llm` is of `launch.start`."""
        self.llm = llm
        self._eos, self._prefix = config.vocabulary.eos, config.prefix_length
        self._broken = ""
        self._asleep = 0
        self._closed = False
        self.meter = Meter(lambda: self.rpc("counting failed", "hermes_counts"))

    def ready(self) -> None:
        """Whether calls are possible.

        Raises:
            EngineError: the instance has ended or sleeps, or an earlier call left it broken.
        """
        if self._closed:
            raise EngineError("the engine is closed; start a new one")
        if self._broken:
            raise EngineError(self._broken)
        if self._asleep:
            raise EngineError("the engine is asleep; wake it first")

    @contextmanager
    def broken_unless_done(self, why: str) -> Iterator[None]:
        """Has all further calls refused where the block does not end well."""
        done = False
        try:
            yield
            done = True
        finally:
            if not done:
                self._broken = f"{why}; start a new engine"

    def rpc(self, what: str, method: str, *args: Any) -> Any:
        """A worker method's result; with several workers all give the same one."""
        self.ready()
        with launch.translated(what):
            return self.llm.collective_rpc(method, args=args)[0]

    def sampling(self, **settings: Any) -> SamplingParams:
        """Sampling of token ids that ends with eos.

        Raises:
            EngineError: vLLM refuses the settings.
        """
        from vllm import SamplingParams

        with launch.translated("vLLM refused the sampling settings"):
            return SamplingParams(detokenize=False, stop_token_ids=[self._eos], **settings)

    def generate(self, requests: list[dict[str, Any]], params: Sequence[SamplingParams]) -> list[Any]:
        """vLLM's outputs, in order; `params` has one for each request.

        Raises:
            EngineError: a prompt does not start with a whole image and its salt, or vLLM failed.
        """
        self.ready()
        if not requests:
            return []
        for request in requests:
            # A shorter one would be causal, and one without salt would find the blocks of another image.
            if (length := len(request["prompt_token_ids"])) < self._prefix or not request.get("cache_salt"):
                raise EngineError(
                    f"a prompt of {length} tokens: each must start with a whole image, {self._prefix} tokens,"
                    " and carry its salt"
                )
        with launch.translated("vLLM failed while generating"):
            try:
                outputs: list[Any] = self.llm.generate(cast(Any, requests), list(params), use_tqdm=False)
            finally:
                # Requests left over from a failed call would answer the next one.
                if self.llm.llm_engine.has_unfinished_requests():
                    self._broken = "an earlier call was cut short inside vLLM; start a new engine"
        self.meter.prompts(
            sum(len(one.prompt_token_ids) for one in outputs),
            sum(one.num_cached_tokens or 0 for one in outputs),
        )
        return outputs

    def reset_caches(self) -> None:
        """Forgets all keys and values, and what encoders gave.

        Raises:
            EngineError: they are in use.
        """
        with launch.translated("resetting vLLM's caches failed"):
            if not self.llm.reset_prefix_cache():
                raise EngineError("the prefix cache is in use; was a swap called during a request?")
            self.llm.reset_mm_cache()
            self.llm.llm_engine.reset_encoder_cache()

    def sleep(self, level: int) -> None:
        """See `Engine.sleep`."""
        self.ready()
        if level not in sleep.LEVELS:
            raise EngineError(f"sleep level {level} is not one of {sleep.LEVELS}")
        sleep.require_sleep(self.llm)
        self.reset_caches()
        with (
            launch.translated("going to sleep failed"),
            self.broken_unless_done("the engine fell asleep half-way"),
        ):
            sleep.sleep(self.llm, level)
        self._asleep = level

    def wake(self, load: Callable[[], None]) -> None:
        """Takes memory up again, with all caches empty; nothing where it is awake.

        `load` brings the weights, where the sleep gave them back. If anything fails, the engine sleeps on and
        may be woken again.

        Raises:
            EngineError: vLLM failed to wake; on a GPU others may have taken the memory.
        """
        if not (level := self._asleep) or self._closed:
            return
        with launch.translated("waking failed"):
            # Weights are loaded before keys and values are back: a load needs room for a second copy of them.
            sleep.wake(self.llm, "weights")
            awake = False
            try:
                self._asleep = 0
                if level == sleep.WEIGHTS:
                    load()
                sleep.wake(self.llm, "kv_cache")
                # vLLM still knows which prefixes its blocks held, and those are empty now.
                self.reset_caches()
                awake = True
            finally:
                if not awake:
                    self._asleep = level

    def close(self) -> None:
        """Ends vLLM; safe to call again."""
        if not self._closed:
            self._closed = True
            launch.stop(self.llm)
            del self.llm
