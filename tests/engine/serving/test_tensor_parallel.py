"""Two processes that share every layer give what one gives, before and after a swap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import EngineError
from engine.records import CaptionSettings, ImageSettings, ImageTokens
from engine.serving.engine import Engine
from engine.serving.launch import shared_cores

SCRIPT = """
import json, sys
from pathlib import Path

if __name__ == "__main__":
    from test_tensor_parallel import outputs
    from engine.serving.engine import Engine

    with Engine(Path(sys.argv[1]), tensor_parallel=2) as engine:
        before = outputs(engine)
        engine.swap(Path(sys.argv[2]))
        print(json.dumps([before, outputs(engine)]))
"""


def outputs(engine: Engine) -> dict[str, list]:
    """Scores, greedy captions and images of one engine."""
    images = [ImageTokens(codes=tuple((7 * i + j) % 64 for j in range(36))) for i in range(3)]
    texts = ["a red circle", "two blue square", "three"]
    keys = ["a", "b", "c"]
    greedy = CaptionSettings(temperature=0.0, max_tokens=6)
    captions = engine.caption(images, keys, 0, [greedy])
    generated = engine.generate_images(texts, 2, keys, 0, ImageSettings(steps=4, guidance=2.0))
    return {
        "scores": [logp for row in engine.score(images, texts) for logp in row],
        "captions": [list(one.token_ids) for (one,) in captions],
        "images": [list(one.codes) for row in generated for one in row],
    }


@pytest.mark.slow
def test_two_processes_give_what_one_gives(
    engine: Engine, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    script = tmp_path / "two.py"
    script.write_text(SCRIPT)
    here = Path(__file__).parent
    paths = os.pathsep.join((str(here.parents[2]), str(here)))
    done = subprocess.run(
        [sys.executable, str(script), *map(str, checkpoints)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = json.loads(done.stdout.splitlines()[-1])
    for found, checkpoint in ((before, checkpoints[0]), (after, checkpoints[1])):
        engine.swap(checkpoint)
        wanted = outputs(engine)
        assert found["scores"] == pytest.approx(wanted["scores"], abs=1e-5)
        assert found["captions"] == wanted["captions"]
        assert found["images"] == wanted["images"]
    engine.swap(checkpoints[0])
    assert before["scores"] != pytest.approx(after["scores"], abs=1e-2)


def test_cores_are_dealt_out_and_too_few_are_refused() -> None:
    cores = len(os.sched_getaffinity(0))
    parts = shared_cores(1).split("|")
    assert len(parts) == 1
    assert len(parts[0].split(",")) == cores
    with pytest.raises(EngineError, match=f"only {cores} cores"):
        shared_cores(cores + 1)
