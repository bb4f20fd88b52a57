"""pip install with a line for each package that is fetched: it moves, and a terminal does not fill up.

python .ci/install.py ARGUMENTS OF PIP INSTALL
"""

import os
import re
import subprocess
import sys


def short(line: str) -> str:
    """What to show of a line of pip's, or ""."""
    file = r"(?:\S*/)?(\S+?)-(\d[^-\s]*?)(?:-\S+)?\.(?:whl|tar\.gz|zip)"  # pip gives the address of what is not on PyPI
    if fetched := re.match(rf" *(?:Downloading|Using cached|Processing) {file}(?: \((.+)\))?\s*$", line):
        name, version, size = fetched.groups()
        return f"  {name} {version}" + (f", {size}" if size else "")
    if line.startswith("Installing collected packages:"):
        return f"  {line.count(',') + 1} packages are being unpacked, which takes a minute or more"
    if built := re.match(r" *Building (?:wheel|editable) for (\S+) .*: started", line):
        return f"  {built[1]} is being built"
    return ""


def main() -> int:
    """Run pip, and return its exit code; what it complains about it says itself."""
    command = [sys.executable, "-m", "pip", "install", "--progress-bar", "off", *sys.argv[1:]]
    environment = os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as pip:
        for line in pip.stdout:
            if said := short(line):
                print(said, flush=True)
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main())
