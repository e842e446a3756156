"""Install the CPU build of torch, before anything that asks for torch lets a resolver choose one.

    python .ci/cpu_torch.py constraints.txt

On macOS and Windows pip finds a CPU build by itself. On Linux it finds the CUDA build, gigabytes
that no runner needs, unless it is told of an index of CPU builds. No text here names one: the
environment variable CPU_TORCH_CONF, in CI a variable of the repository, holds the lines of a pip
configuration file that does. Without it pip's own configuration decides; and where that leads to a
CUDA build, this stops before its libraries are fetched.
"""

import os
import runpy
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path


def main() -> None:
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    pip += ["--constraint", sys.argv[1], "torch"]
    environment = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        if lines := environment.get("CPU_TORCH_CONF", "").strip():
            file = Path(folder) / "pip.conf"
            file.write_text(f"{lines}\n", encoding="utf-8")
            environment["PIP_CONFIG_FILE"] = str(file)
        subprocess.run([*pip, "--no-deps"], env=environment, check=True)
        # Read, not imported: most of what torch imports is not there yet.
        torch = runpy.run_path(str(distribution("torch").locate_file("torch/version.py")))
        if torch["cuda"] is not None:
            sys.exit(
                f"torch {torch['__version__']} is a build for CUDA {torch['cuda']}: "
                "set CPU_TORCH_CONF, see .ci/cpu_torch.py"
            )
        subprocess.run(pip, env=environment, check=True)
    print(f"torch {torch['__version__']}, a CPU build")


if __name__ == "__main__":
    main()
