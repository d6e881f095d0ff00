"""What the pack adds to ComfyUI's start: seconds from its import to its list of nodes, in fresh processes.

Run: python benchmarks/startup.py [FOLDER OF A COMFYUI] [REPEATS]
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from comfy_host import find_comfyui, run_in_comfyui, skip_reason

# What ComfyUI itself has imported before it comes to custom nodes stands before the clock.
SCRIPT = """
import asyncio, importlib.util, time
import nodes, comfy_api.latest, comfy_extras.nodes_hooks
root = ARGUMENTS[0]
began = time.perf_counter()
spec = importlib.util.spec_from_file_location("metalora_pack", root + "/__init__.py")
pack = importlib.util.module_from_spec(spec)
sys.modules["metalora_pack"] = pack
spec.loader.exec_module(pack)

async def start():
    for node in await (await pack.comfy_entrypoint()).get_node_list():
        node.GET_SCHEMA()

asyncio.run(start())
print("MILLISECONDS", 1000 * (time.perf_counter() - began))
"""


def milliseconds(comfyui: Path) -> float:
    done = run_in_comfyui(comfyui, SCRIPT, [str(ROOT)])
    lines = [line for line in done.stdout.splitlines() if line.startswith("MILLISECONDS")]
    if not lines:
        raise SystemExit(f"The pack did not start:\n{done.stderr[-2000:]}")
    return float(lines[-1].split()[1])


def main() -> None:
    comfyui = Path(sys.argv[1]).expanduser() if len(sys.argv) > 1 else find_comfyui()
    if comfyui is None:
        raise SystemExit(skip_reason())
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    milliseconds(comfyui)  # the first one compiles to byte code
    found = sorted(milliseconds(comfyui) for _ in range(repeats))
    print(
        f"{comfyui}: median {statistics.median(found):.0f} ms, {found[0]:.0f} to {found[-1]:.0f} ms, {repeats} starts"
    )


if __name__ == "__main__":
    main()
