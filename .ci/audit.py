"""Asks PyPI for known vulnerabilities of what is installed here: exit status 1 if there are any.

Where nothing answers, or a mirror that knows none, that is said, and is no failure: pip-audit itself would say
that none are known. Options are pip-audit's, such as --ignore-vuln ID.
"""

import json
import subprocess  # pip-audit is no library  # nosec B404
import sys

options = ["--skip-editable", "--progress-spinner=off", "--format=json", *sys.argv[1:]]
command = [sys.executable, "-m", "pip_audit", *options]
done = subprocess.run(command, capture_output=True, text=True, check=False)  # nosec B603
try:
    packages = json.loads(done.stdout)["dependencies"]
except ValueError:
    print(f"NOT AUDITED: {(done.stderr.strip().splitlines() or ['pip-audit says nothing'])[-1][:200]}")
    sys.exit(0)
known = [package for package in packages if "vulns" in package]
found = [(package, vulnerability) for package in known for vulnerability in package["vulns"]]
for package, vulnerability in found:
    mended = ", ".join(vulnerability["fix_versions"]) or "no version"
    print(f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {mended}")
if len(known) < len(packages):
    print(f"NOT AUDITED: the database has nothing about {len(packages) - len(known)} of {len(packages)} packages")
print(f"{len(found)} known vulnerabilities in the {len(known)} packages that were audited")
sys.exit(bool(found))
